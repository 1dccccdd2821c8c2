"""Boxes and polygons that mark defects -> masks. x runs to the right, y down, in pixels, from the upper left corner."""

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

Polygon = NDArray[np.float64]  # (n, 2): x, y of its corners


def rasterise(polygons: list[Polygon], size: Size) -> NDArray[np.bool_]:
    """(H, W), true where a pixel's centre lies in one of them (by the even-odd rule, where its edges cross)."""
    height, width = size
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    mask = np.zeros(size, bool)
    for polygon in polygons:
        inside = np.zeros(size, bool)
        for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            rows = np.flatnonzero((y0 <= y) != (y1 <= y))  # whose line of centres the edge crosses
            crossing = x0 + (y[rows] - y0) * (x1 - x0) / (y1 - y0)
            inside[rows] ^= x >= crossing[:, None]
        mask |= inside
    return mask


def rasterise_circle(centre: NDArray[np.float64], radius: float, size: Size) -> NDArray[np.bool_]:
    """(H, W), true where a pixel's centre lies in a circle around x, y."""
    height, width = size
    x, y = np.arange(width) + 0.5 - centre[0], np.arange(height)[:, None] + 0.5 - centre[1]
    inside: NDArray[np.bool_] = x**2 + y**2 <= radius**2
    return inside


def read_boxes(value: Any) -> list[Polygon]:
    """[x0, y0, x1, y1], or a list of such, as JSON text or not. Raises ValueError on anything else."""
    boxes = numbers(value)
    boxes = boxes[None] if boxes.ndim == 1 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not len(boxes) or (boxes[:, :2] >= boxes[:, 2:]).any():
        raise ValueError(
            "a box is [x0, y0, x1, y1] with x0 < x1 and y0 < y1, in pixels, as 1.5 where it is not "
            "whole; several are a list of such"
        )
    return [np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) for x0, y0, x1, y1 in boxes]


def read_polygons(value: Any) -> list[Polygon]:
    """[[x, y], [x, y], [x, y], ...], or a list of such, as JSON text or not. Raises ValueError on anything else."""
    value = decoded(value)
    try:
        several = isinstance(value[0][0], list)
        polygons = [numbers(polygon) for polygon in (value if several else [value])]
    except (TypeError, IndexError, KeyError) as error:
        raise ValueError("a polygon is a list of [x, y], in pixels") from error
    if any(polygon.ndim != 2 or polygon.shape[1] != 2 or len(polygon) < 3 for polygon in polygons):
        raise ValueError("a polygon is a list of three or more [x, y], in pixels; several are a list of such")
    return polygons


def numbers(value: Any) -> NDArray[np.float64]:
    """An array of finite numbers. Raises ValueError if the value is none."""
    try:
        array = np.asarray(decoded(value), np.float64)
    except TypeError as error:
        raise ValueError(str(error)) from error
    if not np.isfinite(array).all():
        raise ValueError("a number is missing, or infinite")
    return array


def decoded(value: Any) -> Any:
    """The value of a JSON text, or the value itself. Raises ValueError on a text that is no JSON."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"it is no JSON, whose lists stand in [] and whose numbers have a point: {error}") from error


def kept_masks() -> Path:
    """The directory of the masks that were drawn from shapes."""
    return cache_directory() / "masks"


def keep_mask(mask: NDArray[np.bool_]) -> Path:
    """A mask (H, W) as a file in the cache directory, named by what is in it."""
    digest = hashlib.blake2b(repr(mask.shape).encode() + np.packbits(mask).tobytes(), digest_size=12).hexdigest()
    path = kept_masks() / f"{digest}.png"
    if path.is_file():
        with suppress(OSError):  # of others, in a directory that is only to be read
            os.utime(path)  # when it last served, for `lit-ad cache clear --older`
    else:
        with atomic_write(path) as temporary:
            Image.fromarray(mask.astype(np.uint8) * 255).save(temporary, format="PNG")
    return path
