"""Draw masks from JSON files of labelme (https://github.com/wkentaro/labelme), whose shapes mark an image's defects.

Every shape is a defect, whatever its label is, except _background_: such a shape is cut out of the shapes before it.
"""

import base64
import io
import json
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_ad.counts import first_few, format_count
from lit_ad.data.sources.shapes import keep_mask, rasterise, rasterise_circle, read_numbers
from lit_ad.errors import UserError
from lit_ad.image.pixels import Size, find_reason, list_page_paths, read_upright_size, split_page

_CORNERS = {  # shapes with straight edges, and their possible numbers of points
    "polygon": range(3, 2**31),
    "rectangle": (2, 4),  # two opposite corners; other programs that write labelme's format give all four
    "oriented_rectangle": (4,),
    "rotation": (4,),  # X-AnyLabeling's name of the same shape
    "quadrilateral": (4,),
}
_WITHOUT_AREA = ("point", "points", "line", "linestrip")
BACKGROUND, IGNORED = "_background_", "__ignore__"  # labels with a meaning of their own in labelme
_OUTSIDE = 1.0  # pixels that a corner may lie outside of its image, because people draw by hand


def draw_mask_beside(image: Path) -> Path | None:
    """Return the mask drawn from NAME.json beside NAME.png; None if there is no such file of labelme.

    Raises:
        UserError: As for `draw_labelme`, or NAME.json is no JSON.
    """
    file = split_page(image)[0].with_suffix(".json")
    if not file.is_file() or not _is_labelme(read_json(file)):
        return None
    return draw_labelme(file, image)


def draw_labelme(file: Path, image: Path) -> Path:
    """Draw the mask of an image from the shapes of a labelme file, and return the mask's file.

    Raises:
        UserError: The file is not labelme's, belongs to another image, or has a shape that marks nothing. The message
            names the file.
    """
    values = read_json(file)
    if not _is_labelme(values):
        raise UserError(f"{file} is no labelme file: it has no list of shapes")
    size = read_upright_size(list_page_paths(image)[0])  # pages of one file have one size
    check_image(file, values, image, size)
    shapes = values["shapes"]
    names = [f"shape {i} ({_read_kind(shape)} {_read_shape_label(shape)!r})" for i, shape in enumerate(shapes, 1)]
    flat = [name for name, shape in zip(names, shapes, strict=True) if _read_kind(shape) in _WITHOUT_AREA]
    if flat:
        raise UserError(f"{file} has shapes without an area, {first_few(flat)}: draw polygons instead")
    mask = np.zeros(size, bool)
    for name, shape in zip(names, shapes, strict=True):
        try:
            marked = _draw_shape(shape, size)
            if not marked.any():
                raise ValueError("it marks no pixel")
        except (ValueError, KeyError, TypeError, OSError) as error:
            reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else find_reason(error)
            raise UserError(f"{file}: {name}: {reason}; correct or remove it") from error
        mask[marked] = _read_shape_label(shape) != BACKGROUND
    if not mask.any():
        raise UserError(f"{file} marks nothing in {image}: draw its defects, or remove the file")
    return keep_mask(mask)


def read_json(file: Path) -> Any:
    """Return the content of a JSON file. Raises UserError if it is no JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}, which may be labelme's: {error}; replace or remove it") from error


def _is_labelme(values: Any) -> bool:
    """Return whether the content of a JSON file is labelme's."""
    return isinstance(values, dict) and isinstance(values.get("shapes"), list)


def check_image(file: Path, values: dict[str, Any], image: Path, size: Size) -> None:
    """Raise UserError if a labelme file names an image with another name or size."""
    name = values.get("imagePath")
    stem = split_page(image)[0].stem
    if (
        isinstance(name, str) and name and PureWindowsPath(name).stem != stem
    ):  # PureWindowsPath splits at both kinds of slashes
        raise UserError(
            f"{file} is labelme's of {name} (its imagePath), but is given for {image.name}: rename one of them"
        )
    drawn_on = (values.get("imageHeight"), values.get("imageWidth"))
    if None not in drawn_on and drawn_on != size:
        raise UserError(
            f"{file} was drawn on an image of {drawn_on[0]}x{drawn_on[1]} (height x width), but {image} is "
            f"{size[0]}x{size[1]}, turned upright: draw its shapes on this image, or remove the file"
        )


def _read_kind(shape: Any) -> str:
    """Return the kind of a shape. Early files of labelme have no kind: all their shapes are polygons."""
    return str((shape.get("shape_type") if isinstance(shape, dict) else None) or "polygon")


def _read_shape_label(shape: Any) -> str:
    return str(shape.get("label") if isinstance(shape, dict) else None)


def _draw_shape(shape: Any, size: Size) -> NDArray[np.bool_]:
    """Return the mask (H, W) of a shape.

    Raises:
        ValueError, KeyError, TypeError, OSError: The shape cannot be drawn.
    """
    kind, points = _read_kind(shape), read_numbers(shape["points"])
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError("its points are no list of [x, y]")
    if _read_shape_label(shape) == IGNORED:
        raise ValueError("a mask cannot mark pixels to ignore, only anomalous pixels")
    if kind == "circle":
        if len(points) != 2:
            raise ValueError("a circle has two points, its centre and one on its edge")
        return rasterise_circle(points[0], float(np.hypot(*(points[1] - points[0]))), size)
    if kind == "mask":
        return _paste_mask(shape["mask"], points, size)
    if kind not in _CORNERS:
        raise ValueError(
            f"this kind of shape is not supported; supported are {', '.join([*_CORNERS, 'circle', 'mask'])}"
        )
    if len(points) not in _CORNERS[kind]:
        raise ValueError(f"it has {format_count(len(points), 'point')}")
    if (points < -_OUTSIDE).any() or (points > np.array(size[::-1]) + _OUTSIDE).any():
        raise ValueError(f"it reaches beyond its image, where x ends at {size[1]}, y at {size[0]}")
    if len(points) == 2:
        (x0, y0), (x1, y1) = points
        points = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    return rasterise([points], size)


def _paste_mask(encoded: str, points: NDArray[np.float64], size: Size) -> NDArray[np.bool_]:
    """Return the mask (H, W) of a shape of kind "mask": a small PNG in base64, whose upper left pixel lies at the first
    of two points."""
    small = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("L")) > 0
    left, top = points[0].astype(int)
    mask = np.zeros(size, bool)
    part = mask[top : top + small.shape[0], left : left + small.shape[1]]
    if min(left, top) < 0 or part.shape != small.shape:
        raise ValueError(f"it reaches beyond its image, where x ends at {size[1]}, y at {size[0]}")
    part[:] = small
    return mask
