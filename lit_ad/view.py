"""How an image becomes network input, and how maps get back to the image. NumPy and Pillow only.

One resize serves training, test, export and server: those of torch, ONNX and OpenVINO differ from Pillow's, and from
each other, by up to half a per cent of a score.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_ad.errors import UserError
from lit_ad.pixels import Pixels, Size
from lit_ad.tiling import Grid

Box = tuple[int, int, int, int]  # top, left, bottom, right: the slice [top:bottom, left:right]
Floats = NDArray[np.float32]


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
    """

    image_size: int | tuple[int, int] | None = 256
    fit: Literal["stretch", "pad"] = "stretch"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    crop: int | None = None
    multiple: int | None = None
    tile: int | None = None
    overlap: int | None = None
    tile_batch: int = 8

    def __post_init__(self) -> None:
        if isinstance(self.image_size, list):  # as YAML and JSON have it
            object.__setattr__(self, "image_size", tuple(self.image_size))
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise UserError(
                f"view.image_size is {self.image_size}, but it must be a side, or [height, width], in pixels"
            )
        for name in ("crop", "multiple", "tile", "tile_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"view.{name} is {value}, but it must be 1 or more")
        if self.crop is not None and (self.tile is not None or self.size is None or self.crop > min(self.size)):
            raise UserError(
                f"view.crop is {self.crop}, but it must lie inside view.image_size {self.image_size}, without view.tile"
            )
        self.grid((1, 1))  # says if the overlap is wrong

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

    def __call__(self, image: Pixels) -> tuple[Pixels, Box]:
        """(H0, W0, 3) -> (H, W, 3), and the box that the image's content fills: what of (H, W) is outside is padding,
        and what of the content is outside of (H, W) is cropped."""
        canvas = self.size or (image.shape[0], image.shape[1])
        content = self.content((image.shape[0], image.shape[1]))
        if content != image.shape[:2]:
            method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[self.interpolation]
            image = np.asarray(Image.fromarray(image).resize(content[::-1], method))
        multiple = 1 if self.tile else self.multiple or 1  # of tiles, it is the tile that the network sees
        canvas = (math.ceil(canvas[0] / multiple) * multiple, math.ceil(canvas[1] / multiple) * multiple)
        if self.crop is not None:
            canvas = (self.crop, self.crop)
        top, left = (canvas[0] - content[0]) // 2, (canvas[1] - content[1]) // 2
        seen = image[max(-top, 0) : canvas[0] - top, max(-left, 0) : canvas[1] - left]
        return fill(seen, canvas, max(top, 0), max(left, 0)), (top, left, top + content[0], left + content[1])

    def content(self, size: Size) -> Size:
        """What becomes of an image of this (height, width), without padding."""
        canvas = self.size or size
        if self.fit == "stretch":
            return canvas
        scale = min(canvas[0] / size[0], canvas[1] / size[1])
        return max(1, round(scale * size[0])), max(1, round(scale * size[1]))

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


def original_map(anomaly_map: Floats, canvas: Size, box: Box, size: Size) -> Floats:
    """A map (h, w) of a network input of size `canvas` -> the image's own (H0, W0), without padding.

    Every map is brought to the canvas first, padded or not: a bilinear map's peaks depend on the sizes it goes through.
    """
    top, left, bottom, right = visible(box, canvas)
    seen = bilinear(anomaly_map, canvas)[top:bottom, left:right]
    return bilinear(uncropped(seen, box, float(seen.min())), size)


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
