"""The region of interest: the part of an image that counts. NumPy and Pillow only.

Its box is cut out before the image is resized, so that the network sees it at its full resolution. Pixels of the box
that a mask excludes are filled with one colour. So no pixel outside the region is trained on, scored or counted.
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

FILL = (124, 116, 104)  # ImageNet's mean colour: most teachers normalise it to 0, the value of their own zero padding
CODE = "mask:"  # the beginning of a mask as text


@dataclass(frozen=True)
class Roi:
    """A box in upright images, with or without a mask inside it."""

    box: tuple[int, int, int, int]  # top, left, bottom, right: the slice [top:bottom, left:right] of the image
    inside: NDArray[np.bool_] | None = None  # (h, w) of the box: the pixels that count; None: all
    size: Size | None = None  # the size of the mask, which images must have; None: any size that holds the box

    @property
    def shape(self) -> Size:
        """Height and width of the box."""
        return self.box[2] - self.box[0], self.box[3] - self.box[1]

    def cut(self, image: Pixels) -> Pixels:
        """Cut the box out of an image, (H, W, 3) -> (h, w, 3), and fill the pixels that do not count.

        Raises UserError if the image has another size than the mask, or does not hold the box.
        """
        self.check((image.shape[0], image.shape[1]))
        cropped = self.cut_box(image)
        return cropped if self.inside is None else np.where(self.inside[..., None], cropped, np.array(FILL, np.uint8))

    def check(self, size: Size) -> None:
        """Raise UserError if images of this size do not fit the mask or the box."""
        height, width = size
        if self.size is not None and (height, width) != self.size:
            raise ViewMismatch(
                f"an image of {height}x{width} (height x width) does not fit the mask of view.roi, which is "
                f"{self.size[0]}x{self.size[1]}: the mask must have the images' size"
            )
        if self.box[2] > height or self.box[3] > width:
            raise ViewMismatch(
                f"an image of {height}x{width} (height x width) does not hold view.roi {list(self.box)}: top, left, "
                "bottom, right, in pixels"
            )

    def cut_box(self, values: Any) -> Any:
        """Return the values in the box, (H, W, ...) -> (h, w, ...)."""
        top, left, bottom, right = self.box
        return values[top:bottom, left:right]

    def place(self, values: NDArray[Any], size: Size) -> NDArray[Any]:
        """Return the values of the box at their place in an image, (h, w) -> (H, W). Pixels that do not count get the
        lowest value of those that do."""
        lowest = (values if self.inside is None else values[self.inside]).min()
        placed = np.full(size, lowest, values.dtype)
        self.cut_box(placed)[...] = values if self.inside is None else np.where(self.inside, values, lowest)
        return placed

    def resize_mask(self, size: Size) -> NDArray[np.bool_] | None:
        """Return `inside` at another size, (h, w).

        A pixel of the resized mask counts if at least half of its area counts. If no pixel reaches half, each pixel of
        which any part counts does.
        """
        if self.inside is None or size == self.shape:
            return self.inside
        share = resize(self.inside.astype(np.uint8) * 255, size, Image.Resampling.BOX)
        return share > (127 if share.max() > 127 else 0)

    def make_mask(self, size: Size) -> NDArray[np.bool_]:
        """Return the pixels of an image that count, (H, W)."""
        mask = np.zeros(size, bool)
        self.cut_box(mask)[...] = True if self.inside is None else self.inside
        return mask


def select_inside(values: NDArray[Any], roi: Roi | None) -> NDArray[Any]:
    """Return the values of an image (H, W) that count: (H, W) without a region, (h, w) of a box, or (n,) of a mask."""
    if roi is None:
        return values
    boxed: NDArray[Any] = roi.cut_box(values)
    return boxed if roi.inside is None else boxed[roi.inside]


def parse_roi(value: tuple[int, ...] | str) -> Roi:
    """Return the region of a box, or of the text from `encode_mask`. Raises UserError if a box is empty."""
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


def encode_mask(file: Path) -> str:
    """Return a mask file as text, which checkpoints and exported files can hold.

    The text is `mask:HEIGHT,WIDTH,BASE64`, where BASE64 has the mask's bits, packed row by row and deflated.

    Raises:
        UserError: The file cannot be read, or is black.
    """
    mask = read_image(file).max(axis=2) > 127
    if not mask.any():
        raise UserError(f"{file}, the mask of view.roi, is black: it must be white where images count")
    packed = zlib.compress(np.packbits(mask).tobytes(), 9)
    return f"{CODE}{mask.shape[0]},{mask.shape[1]},{base64.b64encode(packed).decode()}"
