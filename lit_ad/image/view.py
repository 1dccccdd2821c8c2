"""Turn an image into network input, and bring maps back to the image. NumPy and Pillow only.

Training, test, export and server use the same resize. The resizes of torch, ONNX and OpenVINO differ from Pillow's, and
from each other, by up to half a per cent of a score.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_ad.errors import UserError, check_number
from lit_ad.files import resolve_path
from lit_ad.image.conversion import require_deep_values
from lit_ad.image.pixels import Pixels, Size, Window, open_image
from lit_ad.image.resize import resize, resize_bilinear
from lit_ad.image.roi import CODE, Roi, encode_mask, parse_roi, select_inside
from lit_ad.image.tiling import Grid

Box = tuple[int, int, int, int]  # top, left, bottom, right: the slice [top:bottom, left:right]
# A `canvas` is the Size (height, width) of the network's input, padding included. With tiles, it is the size of the
# image that is cut into tiles. A Box is the place of an image's content in a canvas. A `target` is the Size to which
# images are fitted, before they are padded to a `multiple` or cropped.
Floats = NDArray[np.float32]
SMALLEST_SIDE = 8  # pixels; a smaller image, resized, shows the interpolation and hardly any texture of its own
_WINDOW_IMAGES = 100  # how many images an automatic window is computed from


@dataclass(frozen=True)
class View:
    """How the network sees an image. The view belongs to the model, and is saved in its checkpoint.

    Args:
        image_size: The size of the network's input in pixels: one side, or height and width. None: each image's own.
        fit: "stretch": resize images to that size. "pad": keep the aspect ratio, centre the image, and pad it by
            reflection.
        interpolation: The interpolation of the resize, which is antialiased.
        crop: The side of a square in the middle of the resized image, which is all that the network sees, as in papers
            that resize to 256 and crop to 224. Outside the square, the map is filled with the lowest value that it has
            inside the square. None: the network sees the whole image.
        multiple: Sides are padded by reflection to a multiple of this. None: the multiple that the model needs.
        tile: The side of the tiles into which images of `image_size` are cut. None: no tiles.
        overlap: The least number of pixels that neighbouring tiles share, up to half a tile. Their maps are blended
            there. None: a quarter of a tile.
        tile_batch: How many tiles evaluation runs at once. It bounds memory, whatever the image's size.
        window: For grey images of more than 8 bits, the values [low, high] that become 0 and 255; values beyond are
            clipped. "auto": computed from the nominal training images, once, before the first step (`resolved`). None:
            [0, 65535], or [0, 1] for floats.
        roi: The region of interest, in pixels of the image: a box [top, left, bottom, right], or a mask file of the
            images' size, white where images count. Outside it nothing is trained on, scored or counted. The mask
            itself is kept, not its path. None: the whole image.
        mm_per_pixel: The side of a pixel of the image, in millimetres on the part, for the sizes of regions. It changes
            no score. None: sizes are in pixels only.

    Raises:
        UserError: A value is out of range, two values exclude each other, or the mask file cannot be read.
    """

    image_size: int | tuple[int, int] | None = 256
    fit: Literal["stretch", "pad"] = "stretch"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    crop: int | None = None
    multiple: int | None = None
    tile: int | None = None
    overlap: int | None = None
    tile_batch: int = 8
    window: Window | Literal["auto"] | None = None
    roi: tuple[int, int, int, int] | Path | str | None = None
    mm_per_pixel: float | None = None

    def __post_init__(self) -> None:
        for name in ("image_size", "window", "roi"):
            if isinstance(value := getattr(self, name), list):  # YAML and JSON have no tuples
                object.__setattr__(self, name, tuple(value))
        if isinstance(self.roi, Path) or (isinstance(self.roi, str) and not self.roi.startswith(CODE)):
            object.__setattr__(self, "roi", encode_mask(resolve_path(self.roi)))
        if isinstance(self.window, tuple) and not (len(self.window) == 2 and self.window[0] < self.window[1]):
            raise UserError(f"view.window is {list(self.window)}, but it must be [low, high], or auto")
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise UserError(
                f"view.image_size is {self.image_size}, but it must be a side, or [height, width], in pixels"
            )
        for name in ("crop", "multiple", "tile", "tile_batch"):
            value = getattr(self, name)
            if value is not None:
                check_number(f"view.{name}", value, least=1)
        if self.mm_per_pixel is not None:
            check_number("view.mm_per_pixel", self.mm_per_pixel, least=0, above=True)
        if self.overlap is not None and self.tile is None:
            raise UserError(f"view.overlap is {self.overlap}, but there are no tiles: set view.tile, or leave it out")
        if self.crop is not None and (self.tile is not None or self.size is None or self.crop > min(self.size)):
            raise UserError(
                f"view.crop is {self.crop}, but it must lie inside view.image_size {self.image_size}, without view.tile"
            )
        _ = self.grid((1, 1)), self.region  # raises UserError if the overlap or the box is wrong

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "View":
        """Return the view of `to_dict`'s values."""
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON and checkpoints."""
        return asdict(self)

    def of_multiple(self, multiple: int) -> "View":
        """Return this view with sides that are multiples of `multiple`, unless it has a multiple of its own.

        Raises UserError if the tile or the crop is no such multiple.
        """
        multiple = self.multiple or multiple
        if self.tile is not None and self.tile % multiple:
            near = max(1, round(self.tile / multiple)) * multiple
            raise UserError(f"view.tile is {self.tile}, but the model needs a multiple of {multiple}: try {near}")
        if self.crop is not None and self.crop % multiple:
            near = max(1, self.crop // multiple) * multiple
            raise UserError(f"view.crop is {self.crop}, but the model needs a multiple of {multiple}: try {near}")
        return replace(self, multiple=multiple)

    @property
    def size(self) -> Size | None:
        """Height and width of `image_size`; None: each image's own."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @cached_property
    def region(self) -> Roi | None:
        """The region of interest. None: the whole image."""
        return None if self.roi is None else parse_roi(self.roi)  # type: ignore[arg-type]  # a path became text

    def resolved(self, nominal: Sequence[Path]) -> "View":
        """Return this view with a window in place of "auto". A view without "auto" returns itself.

        The window spans the middle 99.8 % of the pixels that count in each image, so that a hot pixel does not change
        it. A quarter of its width is added on either side, so that defects darker or brighter than all nominal pixels
        still differ from them.

        Args:
            nominal: Training images, grey and of more than 8 bits. At most 100 of them are read, evenly spread.

        Raises:
            UserError: An image has 8 bits or cannot be read, or all pixels of all images are equal.
        """
        if self.window != "auto":
            return self
        nominal = nominal[:: math.ceil(len(nominal) / _WINDOW_IMAGES)]
        images = (require_deep_values(open_image(path), str(path)) for path in nominal)
        ends = np.array([np.percentile(select_inside(values, self.region), (0.1, 99.9)) for values in images])
        low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
        if not low < high:
            raise UserError(
                f"view.window cannot be auto, since all pixels of {nominal[0]} and the others are {low:g}: give [low, "
                "high]"
            )
        margin = (high - low) / 4
        # The margin does not take the lower end below 0. A lower end that is negative already gets no margin.
        return replace(self, window=(max(low - margin, min(low, 0.0)), high + margin))

    @property
    def levels(self) -> Window | None:
        """The window with which images are read. Raises UserError if it is "auto" and not computed yet."""
        if self.window == "auto":
            raise UserError(
                "view.window is auto, and only a training computes it, from its images: train, or give --ckpt_path, or "
                "[low, high]"
            )
        return self.window

    def blank(self) -> Pixels:
        """Return a black image that the view takes: (H0, W0, 3)."""
        if self.region is not None:
            return np.zeros((*(self.region.size or self.region.box[2:]), 3), np.uint8)
        return np.zeros((*(self.size or (256, 256)), 3), np.uint8)

    def black_input(self, count: int = 1) -> NDArray[np.uint8]:
        """Return black network inputs: (count, 3, H, W)."""
        height, width = (self.tile, self.tile) if self.tile else self(self.blank())[0].shape[:2]
        return np.zeros((count, 3, height, width), np.uint8)

    def __call__(self, image: Pixels) -> tuple[Pixels, Box]:
        """Return the network's input for an image, (H0, W0, 3) -> (H, W, 3), and the box of the image's content in it.

        Input outside the box is padding. A box that reaches beyond the input is content that is cropped off.

        Raises UserError if the image is too small or too thin, or does not fit the region of interest.
        """
        self.check_size((image.shape[0], image.shape[1]))
        if self.region is not None:
            image = self.region.cut(image)
        target = self.size or (image.shape[0], image.shape[1])
        content = self.content((image.shape[0], image.shape[1]))
        if content != image.shape[:2]:
            method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[self.interpolation]
            image = resize(image, content, method)
        multiple = 1 if self.tile else self.multiple or 1  # with tiles, the tile is the network's input
        canvas = (math.ceil(target[0] / multiple) * multiple, math.ceil(target[1] / multiple) * multiple)
        if self.crop is not None:
            canvas = (self.crop, self.crop)
        top, left = (canvas[0] - content[0]) // 2, (canvas[1] - content[1]) // 2
        seen = image[max(-top, 0) : canvas[0] - top, max(-left, 0) : canvas[1] - left]
        box = (top, left, top + content[0], left + content[1])
        return pad_by_reflection(seen, canvas, max(top, 0), max(left, 0)), box

    def check_size(self, size: Size) -> None:
        """Raise UserError if an image of this (height, width) is too small or too thin to be judged."""
        content, target = self.content(size), self.size or size
        image = f"the image has {size[0]}x{size[1]} pixels (height x width)"
        if min(size) < SMALLEST_SIDE:
            raise UserError(f"{image}, which is too small to judge: each side needs {SMALLEST_SIDE} or more")
        if min(content) < min(SMALLEST_SIDE, *target):
            raise UserError(
                f"{image}, and is too thin to be judged: view.fit pad makes {content[0]}x{content[1]} of it, but each "
                f"side needs {SMALLEST_SIDE} or more; cut the image into parts"
            )

    def content(self, size: Size) -> Size:
        """Return the (height, width) to which an image of this size, or its region of interest, is resized, without
        padding."""
        size = size if self.region is None else self.region.shape
        target = self.size or size
        if self.fit == "stretch":
            return target
        scale = min(target[0] / size[0], target[1] / size[1])
        return max(1, round(scale * size[0])), max(1, round(scale * size[1]))

    def inside(self, canvas: Size, box: Box) -> NDArray[np.bool_] | None:
        """Return the pixels of the content that count, (h, w) of `visible_box`. None: all.

        Raises UserError if none counts.
        """
        content = (box[2] - box[0], box[3] - box[1])
        mask = None if self.region is None else self.region.resize_mask(content)
        if mask is None:
            return None
        top, left, bottom, right = visible_box(box, canvas)
        mask = mask[top - box[0] : bottom - box[0], left - box[1] : right - box[1]]
        if not mask.any():
            raise UserError(f"view.crop {self.crop} leaves nothing of view.roi")
        return mask

    def grid(self, size: Size) -> Grid | None:
        """Return the tiles of a content of this (height, width). None without tiles."""
        if self.tile is None:
            return None
        return Grid(size, self.tile, self.tile // 4 if self.overlap is None else self.overlap)


def pad_by_reflection(image: Pixels, canvas: Size, top: int = 0, left: int = 0) -> Pixels:
    """Pad an image by reflection, (h, w, 3) -> (H, W, 3), so that it lies at (top, left)."""
    bottom, right = canvas[0] - image.shape[0] - top, canvas[1] - image.shape[1] - left
    if not (top or left or bottom or right):
        return image
    return np.pad(image, ((top, bottom), (left, right), (0, 0)), mode="reflect")


def visible_box(box: Box, canvas: Size) -> Box:
    """Return the part of a content's box that lies in the network's input: all of it, unless the view crops."""
    top, left, bottom, right = box
    return max(top, 0), max(left, 0), min(bottom, canvas[0]), min(right, canvas[1])


def pad_to_content(cropped: Any, box: Box, value: float) -> Any:
    """Pad the part of the content that the network saw, (h, w, ...), to the whole content, with `value`. This undoes a
    view's crop."""
    above, before = max(-box[0], 0), max(-box[1], 0)
    below, after = box[2] - box[0] - above - cropped.shape[0], box[3] - box[1] - before - cropped.shape[1]
    if not (above or before or below or after):
        return cropped
    around = [(above, below), (before, after), *[(0, 0)] * (cropped.ndim - 2)]
    return np.pad(cropped, around, constant_values=value)


def original_map(anomaly_map: Floats, canvas: Size, box: Box, size: Size, roi: Roi | None = None) -> Floats:
    """Return a map at the image's own size, (h, w) -> (H0, W0), without padding.

    Outside a region of interest, the map is filled with the lowest value that it has inside the region.

    The map is resized to the network's input, and then to the image. Two bilinear resizes give other peaks than one, so
    both are made even without padding: peaks do not depend on it.

    Args:
        anomaly_map: (h, w), of one network input.
        canvas: The size of that input.
        box: The box of the image's content in it.
        size: H0, W0 of the image.
        roi: The region of interest. None: the whole image.
    """
    top, left, bottom, right = visible_box(box, canvas)
    cropped = resize_bilinear(anomaly_map, canvas)[top:bottom, left:right]
    content = pad_to_content(cropped, box, float(cropped.min()))
    resized = resize_bilinear(content, size if roi is None else roi.shape)
    return resized if roi is None else roi.place(resized, size)
