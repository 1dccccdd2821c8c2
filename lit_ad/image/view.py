"""How an image becomes network input, and how maps get back to the image. NumPy and Pillow only.

One resize serves training, test, export and server: those of torch, ONNX and OpenVINO differ from Pillow's, and from
each other, by up to half a per cent of a score.
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
from lit_ad.image.pixels import Pixels, Size, Window, deep_values, open_image
from lit_ad.image.resize import resize
from lit_ad.image.roi import CODE, Roi, counted, mask_as_text, roi_of
from lit_ad.image.tiling import Grid

Box = tuple[int, int, int, int]  # top, left, bottom, right: the slice [top:bottom, left:right]
Floats = NDArray[np.float32]
SMALLEST_SIDE = 8  # pixels: below, an image has no texture, and a network sees what enlarging has made
_WINDOW_IMAGES = 100  # that an automatic window is found in


@dataclass(frozen=True)
class View:
    """What the network sees of an image. It belongs to the model, and travels in its checkpoint.

    Args:
        image_size: A side, or height and width, in pixels. None: each image's own size.
        fit: "stretch" images to that size, or keep their aspect ratio and "pad" by reflection around the centred image.
        interpolation: Of resizing, antialiased.
        crop: Side of the square that the network sees of the middle of the resized image, as in papers that resize to
            256 and crop to 224. The rest is not looked at: there, a map has the lowest value that it has inside. None:
            all of the image.
        multiple: Sides are filled up to a multiple of this, by reflection. None: what the model needs.
        tile: Side of the tiles that images, of image_size, are cut into. None: no tiles.
        overlap: Pixels that tiles share with their neighbours, or more; up to half a tile. The maps of neighbours are
            blended over it. None: a quarter of a tile.
        tile_batch: Tiles that evaluation runs at once: bounds memory, whatever the image's size.
        window: Of grey images of more than 8 bits, the values [low, high] that become 0 and 255; what lies beyond is
            cut off. "auto": found in the nominal training images, once, before the first step (`resolved`). None:
            [0, 65535], and [0, 1] of floats.
        roi: The region of interest, in pixels of the image: a box [top, left, bottom, right], or a mask file of the
            images' size, white where they are looked at. Outside it nothing is trained on, scored or counted. The mask
            itself is kept, not its path. None: all of the image.
        mm_per_pixel: The side of a pixel of the image, in millimetres on the part, for the sizes of regions. It changes
            no score. None: sizes are in pixels alone.
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
            if isinstance(value := getattr(self, name), list):  # as YAML and JSON have it
                object.__setattr__(self, name, tuple(value))
        if isinstance(self.roi, Path) or (isinstance(self.roi, str) and not self.roi.startswith(CODE)):
            object.__setattr__(self, "roi", mask_as_text(resolve_path(self.roi)))
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
        _ = self.grid((1, 1)), self.region  # they say if the overlap or the box is wrong

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "View":
        """The inverse of `to_dict`."""
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def of_multiple(self, multiple: int) -> "View":
        """The same, with sides that a model needs to be multiples of `multiple`. Raises UserError for other tiles."""
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
        """Height and width to reach, before `multiple`."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @cached_property
    def region(self) -> Roi | None:
        """What is looked at of an image. None: all of it."""
        return None if self.roi is None else roi_of(self.roi)  # type: ignore[arg-type]  # a path became text

    def resolved(self, nominal: Sequence[Path]) -> "View":
        """Return this view with a window in place of "auto"; itself where it has one, or needs none.

        The window holds 99.8 % of the pixels that count of each image that is read, and a quarter of that again on
        either side, so that a defect darker or brighter than anything nominal still differs. A hot pixel has no say.

        Args:
            nominal: Training images, grey ones of more than 8 bits. At most 100 are read, evenly spread.

        Raises:
            UserError: An image has 8 bits, or cannot be read; or the pixels of all are the same.
        """
        if self.window != "auto":
            return self
        nominal = nominal[:: math.ceil(len(nominal) / _WINDOW_IMAGES)]
        read = (deep_values(open_image(path), str(path)) for path in nominal)
        ends = np.array([np.percentile(counted(values, self.region), (0.1, 99.9)) for values in read])
        low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
        if not low < high:
            raise UserError(
                f"view.window cannot be auto, since all pixels of {nominal[0]} and the others are {low:g}: give [low, "
                "high]"
            )
        room = (high - low) / 4
        return replace(self, window=(max(low - room, min(low, 0.0)), high + room))

    @property
    def levels(self) -> Window | None:
        """The window of values to read images with. Raises UserError where it is not known yet."""
        if self.window == "auto":
            raise UserError(
                "view.window is auto, which the Calibration callback finds in the training images of a fit: train, or "
                "give --ckpt_path, or [low, high]"
            )
        return self.window

    def blank(self) -> Pixels:
        """A black image that the view takes: (H0, W0, 3)."""
        if self.region is not None:
            return np.zeros((*(self.region.size or self.region.box[2:]), 3), np.uint8)
        return np.zeros((*(self.size or (256, 256)), 3), np.uint8)

    def black_input(self, count: int = 1) -> NDArray[np.uint8]:
        """Black inputs of the size that the network sees: (count, 3, H, W)."""
        height, width = (self.tile, self.tile) if self.tile else self(self.blank())[0].shape[:2]
        return np.zeros((count, 3, height, width), np.uint8)

    def __call__(self, image: Pixels) -> tuple[Pixels, Box]:
        """(H0, W0, 3) -> (H, W, 3), and the box that the image's content fills: what of (H, W) is outside is padding,
        and what of the content is outside of (H, W) is cropped.

        Raises UserError on an image that is too small or too thin.
        """
        self.check_size((image.shape[0], image.shape[1]))
        if self.region is not None:
            image = self.region.cut(image)
        canvas = self.size or (image.shape[0], image.shape[1])
        content = self.content((image.shape[0], image.shape[1]))
        if content != image.shape[:2]:
            method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[self.interpolation]
            image = resize(image, content, method)
        multiple = 1 if self.tile else self.multiple or 1  # of tiles, it is the tile that the network sees
        canvas = (math.ceil(canvas[0] / multiple) * multiple, math.ceil(canvas[1] / multiple) * multiple)
        if self.crop is not None:
            canvas = (self.crop, self.crop)
        top, left = (canvas[0] - content[0]) // 2, (canvas[1] - content[1]) // 2
        seen = image[max(-top, 0) : canvas[0] - top, max(-left, 0) : canvas[1] - left]
        return fill(seen, canvas, max(top, 0), max(left, 0)), (top, left, top + content[0], left + content[1])

    def check_size(self, size: Size) -> None:
        """Raises UserError if an image of this (height, width) shows too little to be judged."""
        content, canvas = self.content(size), self.size or size
        image = f"the image has {size[0]}x{size[1]} pixels (height x width)"
        if min(size) < SMALLEST_SIDE:
            raise UserError(f"{image}, which is too little to judge: it takes {SMALLEST_SIDE} or more on each side")
        if min(content) < min(SMALLEST_SIDE, *canvas):
            raise UserError(
                f"{image}, and is too thin to be judged: view.fit pad makes {content[0]}x{content[1]} of it, where "
                f"{SMALLEST_SIDE} or more on each side are needed; cut it into parts"
            )

    def content(self, size: Size) -> Size:
        """What becomes of an image of this (height, width), or of its region of interest, without padding."""
        size = size if self.region is None else self.region.shape
        canvas = self.size or size
        if self.fit == "stretch":
            return canvas
        scale = min(canvas[0] / size[0], canvas[1] / size[1])
        return max(1, round(scale * size[0])), max(1, round(scale * size[1]))

    def inside(self, canvas: Size, box: Box) -> NDArray[np.bool_] | None:
        """What counts of the content that the network sees, (h, w) of `visible`. None: all. Raises UserError if nothing
        does."""
        content = (box[2] - box[0], box[3] - box[1])
        mask = None if self.region is None else self.region.resized(content)
        if mask is None:
            return None
        top, left, bottom, right = visible(box, canvas)
        mask = mask[top - box[0] : bottom - box[0], left - box[1] : right - box[1]]
        if not mask.any():
            raise UserError(f"view.crop {self.crop} leaves nothing of view.roi")
        return mask

    def grid(self, size: Size) -> Grid | None:
        """The tiles of the content of an image, (height, width) of it. None without tiles."""
        if self.tile is None:
            return None
        return Grid(size, self.tile, self.tile // 4 if self.overlap is None else self.overlap)


def fill(image: Pixels, canvas: Size, top: int = 0, left: int = 0) -> Pixels:
    """(h, w, 3) -> (H, W, 3): the image at (top, left), and its reflections around it."""
    bottom, right = canvas[0] - image.shape[0] - top, canvas[1] - image.shape[1] - left
    if not (top or left or bottom or right):
        return image
    return np.pad(image, ((top, bottom), (left, right), (0, 0)), mode="reflect")


def visible(box: Box, canvas: Size) -> Box:
    """The part of an image's content that lies in the network's input: all of it, unless the view crops."""
    top, left, bottom, right = box
    return max(top, 0), max(left, 0), min(bottom, canvas[0]), min(right, canvas[1])


def uncropped(seen: Any, box: Box, value: float) -> Any:
    """What the network saw of the content, (h, w, ...) -> all of the content, with `value` where it saw nothing."""
    above, before = max(-box[0], 0), max(-box[1], 0)
    below, after = box[2] - box[0] - above - seen.shape[0], box[3] - box[1] - before - seen.shape[1]
    if not (above or before or below or after):
        return seen
    around = [(above, below), (before, after), *[(0, 0)] * (seen.ndim - 2)]
    return np.pad(seen, around, constant_values=value)


def original_map(anomaly_map: Floats, canvas: Size, box: Box, size: Size, roi: Roi | None = None) -> Floats:
    """A map (h, w) of a network input of size `canvas` -> the image's own (H0, W0), without padding.

    Outside a region of interest it has the lowest value that it has inside.
    Every map is brought to the canvas first, padded or not: a bilinear map's peaks depend on the sizes it goes through.
    """
    top, left, bottom, right = visible(box, canvas)
    seen = bilinear(anomaly_map, canvas)[top:bottom, left:right]
    resized = bilinear(uncropped(seen, box, float(seen.min())), size if roi is None else roi.shape)
    return resized if roi is None else roi.place(resized, size)


def bilinear(values: Floats, size: Size) -> Floats:
    """Bilinear resize between pixel centres, (h, w) -> size: torch's `interpolate`, align_corners=False, not
    antialiased."""
    for axis, length in enumerate(size):
        have = values.shape[axis]
        if have == length:
            continue
        position = np.clip((np.arange(length) + 0.5) * (have / length) - 0.5, 0, have - 1)
        low = position.astype(np.int64)
        weight = (position - low).astype(np.float32)
        weight = weight[:, None] if axis == 0 else weight
        below, above = np.take(values, low, axis), np.take(values, np.minimum(low + 1, have - 1), axis)
        above -= below
        above *= weight
        below += above
        values = below
    return values
