"""Draw masks of boxes and polygons. x runs to the right, y down, in pixels from the image's upper left corner."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_ad.files import atomic_write, cache_directory
from lit_ad.image.pixels import Size

Polygon = NDArray[np.float64]  # (n, 2): x, y of each corner


def rasterise(polygons: list[Polygon], size: Size) -> NDArray[np.bool_]:
    """Return the mask (H, W) of polygons: true if a pixel's centre lies in one of them, by the even-odd rule."""
    height, width = size
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    mask = np.zeros(size, bool)
    for polygon in polygons:
        inside = np.zeros(size, bool)
        for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            rows = np.flatnonzero((y0 <= y) != (y1 <= y))  # rows of pixel centres that the edge crosses
            crossing = x0 + (y[rows] - y0) * (x1 - x0) / (y1 - y0)
            inside[rows] ^= x >= crossing[:, None]
        mask |= inside
    return mask


def rasterise_circle(centre: NDArray[np.float64], radius: float, size: Size) -> NDArray[np.bool_]:
    """Return the mask (H, W) of a circle: true if a pixel's centre lies in it."""
    height, width = size
    x, y = np.arange(width) + 0.5 - centre[0], np.arange(height)[:, None] + 0.5 - centre[1]
    inside: NDArray[np.bool_] = x**2 + y**2 <= radius**2
    return inside


def read_boxes(value: Any) -> list[Polygon]:
    """Read [x0, y0, x1, y1] or a list of such boxes, as lists or as JSON text. Raises ValueError on other values."""
    boxes = read_numbers(value)
    boxes = boxes[None] if boxes.ndim == 1 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not len(boxes) or (boxes[:, :2] >= boxes[:, 2:]).any():
        raise ValueError(
            "a box is [x0, y0, x1, y1] with x0 < x1 and y0 < y1, in pixels, with a point for fractions (1.5); several "
            "boxes are a list of them"
        )
    return [np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) for x0, y0, x1, y1 in boxes]


def read_polygons(value: Any) -> list[Polygon]:
    """Read [[x, y], [x, y], [x, y], ...] or a list of such polygons, as lists or as JSON text. Raises ValueError on
    other values."""
    value = _decode_json(value)
    try:
        several = isinstance(value[0][0], list)
        polygons = [read_numbers(polygon) for polygon in (value if several else [value])]
    except (TypeError, IndexError, KeyError) as error:
        raise ValueError("a polygon is a list of [x, y], in pixels") from error
    if any(polygon.ndim != 2 or polygon.shape[1] != 2 or len(polygon) < 3 for polygon in polygons):
        raise ValueError("a polygon is a list of three or more [x, y], in pixels; several polygons are a list of them")
    return polygons


def read_numbers(value: Any) -> NDArray[np.float64]:
    """Return a value, a list or JSON text, as an array of finite numbers. Raises ValueError if it is not one."""
    try:
        array = np.asarray(_decode_json(value), np.float64)
    except TypeError as error:
        raise ValueError(str(error)) from error
    if not np.isfinite(array).all():
        raise ValueError("a number is missing, or infinite")
    return array


def _decode_json(value: Any) -> Any:
    """Return the value of a JSON text, or a value that is no text unchanged. Raises ValueError if the text is no
    JSON."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"it is no JSON, with lists in [] and a point in numbers: {error}") from error


def find_mask_directory() -> Path:
    """Return the directory of masks that were drawn from shapes."""
    return cache_directory() / "masks"


def keep_mask(mask: NDArray[np.bool_]) -> Path:
    """Write a mask (H, W) to the cache directory, and return its file, whose name is a hash of the mask."""
    digest = hashlib.blake2b(repr(mask.shape).encode() + np.packbits(mask).tobytes(), digest_size=12).hexdigest()
    path = find_mask_directory() / f"{digest}.png"
    if path.is_file():
        with suppress(OSError):  # the directory may be another user's and read-only
            os.utime(path)  # time of the last use, for `lit-ad cache clear --older`
    else:
        with atomic_write(path) as temporary:
            Image.fromarray(mask.astype(np.uint8) * 255).save(temporary, format="PNG")
    return path
