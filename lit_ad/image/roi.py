"""The region of interest: the part of an image that is looked at. NumPy and Pillow only.

Its box is cut out before anything else, so that the network sees it at all of its own resolution. What a mask leaves
out of the box is filled with one colour: no pixel outside has any part in what is trained, scored or counted.
"""

import base64
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_ad.errors import UserError, ViewMismatch
from lit_ad.image.pixels import Pixels, Size, read_image
from lit_ad.image.resize import resize

FILL = (124, 116, 104)  # ImageNet's mean colour: most teachers normalise it to 0, which is what they pad with
CODE = "mask:"  # how a mask begins that is written as text


@dataclass(frozen=True)
class Roi:
    """A box in images, or a mask of their size."""

    box: tuple[int, int, int, int]  # top, left, bottom, right: the slice [top:bottom, left:right] of the image, upright
    inside: NDArray[np.bool_] | None = None  # (h, w) of the box: what counts of it; None: all
    size: Size | None = None  # that images must have, since the mask has it; None: any that hold the box

    @property
    def shape(self) -> Size:
        """Height and width of the box."""
        return self.box[2] - self.box[0], self.box[3] - self.box[1]

    def cut(self, image: Pixels) -> Pixels:
        """(H, W, 3) -> (h, w, 3), filled where it does not count. Raises UserError if the image is of another size."""
        self.check((image.shape[0], image.shape[1]))
        cropped = self.boxed(image)
        return cropped if self.inside is None else np.where(self.inside[..., None], cropped, np.array(FILL, np.uint8))

    def check(self, size: Size) -> None:
        """Raises UserError if images of this size do not go with it."""
        height, width = size
        if self.size is not None and (height, width) != self.size:
            raise ViewMismatch(
                f"an image of {height}x{width} (height x width), and the mask of view.roi is of "
                f"{self.size[0]}x{self.size[1]}: it must have the images' size"
            )
        if self.box[2] > height or self.box[3] > width:
            raise ViewMismatch(
                f"an image of {height}x{width} (height x width) does not hold view.roi {list(self.box)}: top, left, "
                "bottom, right, in pixels"
            )

    def boxed(self, values: Any) -> Any:
        """What lies in the box, (H, W, ...) -> (h, w, ...)."""
        top, left, bottom, right = self.box
        return values[top:bottom, left:right]

    def place(self, values: NDArray[Any], size: Size) -> NDArray[Any]:
        """The inverse of `boxed`, (h, w) -> (H, W): where nothing counts, the lowest value of what does."""
        counted = values if self.inside is None else values[self.inside]
        placed = np.full(size, counted.min(), values.dtype)
        self.boxed(placed)[...] = values if self.inside is None else np.where(self.inside, values, counted.min())
        return placed

    def resized(self, size: Size) -> NDArray[np.bool_] | None:
        """`inside` at another size, (h, w): pixels of which half counts, or any of it where none has half."""
        if self.inside is None or size == self.shape:
            return self.inside
        share = resize(self.inside.astype(np.uint8) * 255, size, Image.Resampling.BOX)
        return share > (127 if share.max() > 127 else 0)

    def mask(self, size: Size) -> NDArray[np.bool_]:
        """What counts of an image, (H, W)."""
        counted = np.zeros(size, bool)
        self.boxed(counted)[...] = True if self.inside is None else self.inside
        return counted


def counted(values: NDArray[Any], roi: Roi | None) -> NDArray[Any]:
    """The values of an image (H, W) that count: all of them, or (n,) of a mask."""
    if roi is None:
        return values
    boxed: NDArray[Any] = roi.boxed(values)
    return boxed if roi.inside is None else boxed[roi.inside]


def roi_of(value: tuple[int, ...] | str) -> Roi:
    """A box, or a mask as text. Raises UserError on a box that holds nothing."""
    if not isinstance(value, str):
        if len(value) != 4 or not (0 <= value[0] < value[2] and 0 <= value[1] < value[3]):
            raise UserError(
                f"view.roi is {list(value)}, but a box is [top, left, bottom, right] in pixels of the image"
            )
        top, left, bottom, right = value
        return Roi((top, left, bottom, right))
    height, width, text = value.removeprefix(CODE).split(",")
    size = int(height), int(width)
    bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    mask = np.unpackbits(bits, count=size[0] * size[1]).reshape(size).astype(bool)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
    inside = mask[box[0] : box[2], box[1] : box[3]]
    return Roi(box, None if inside.all() else inside, size)


def mask_as_text(file: Path) -> str:
    """A mask file as text, which a checkpoint and an exported file can hold: `mask:HEIGHT,WIDTH,BASE64`, of bits packed
    row by row and deflated. Raises UserError if it cannot be read, or is black."""
    mask = read_image(file).max(axis=2) > 127
    if not mask.any():
        raise UserError(f"{file}, the mask of view.roi, is black: it should be white where images are looked at")
    packed = zlib.compress(np.packbits(mask).tobytes(), 9)
    return f"{CODE}{mask.shape[0]},{mask.shape[1]},{base64.b64encode(packed).decode()}"
