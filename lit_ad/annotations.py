"""Write regions in formats of other programs: a CSV table, JSON, COCO and labelme."""

import csv
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TextIO, TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray

from lit_ad.detector.regions import Region

Box = tuple[int, int, int, int]  # top, left, bottom, right, as `Region.box`
Format = Literal["csv", "json", "coco", "labelme"]
LABEL = "anomalous"  # the label of every region in COCO and labelme
COLUMNS = (
    *("path", "region", "top", "left", "bottom", "right", "area", "peak", "mean", "row", "column"),
    *("length", "width", "area_mm2", "length_mm", "width_mm"),
)


class Findings(TypedDict):
    """The regions of an image, as plain values for JSON."""

    size: Sequence[int]  # height and width of the image
    regions: Sequence[Mapping[str, Any]]  # the fields of Region, and `outline`: its corners [x, y], in pixels


def list_findings(
    size: Sequence[int], regions: Sequence[Region], mask: NDArray[np.bool_] | None, outlined: bool = True
) -> Findings:
    """Return an image's regions as plain values.

    Args:
        size: H, W of the image.
        regions: The regions of `mask`.
        mask: The anomalous pixels, (H, W). None: there are no regions.
        outlined: Whether to trace the outlines, which takes longer than all else. If not, they are empty.
    """
    outlines: dict[Box, list[list[float]]] = {region.box: [] for region in regions}
    if outlined and mask is not None:
        outlines |= trace_outlines(mask)
    return {"size": list(size), "regions": [vars(region) | {"outline": outlines[region.box]} for region in regions]}


def trace_outlines(mask: NDArray[np.bool_]) -> dict[Box, list[list[float]]]:
    """Return the outline of each region of a mask (H, W), by the region's box: the corners [x, y] of a polygon.

    Holes are filled. The centres of the region's pixels lie inside the polygon, and those of all pixels around it lie
    outside: the mask is traced at twice its size, where a corner lies a quarter of a pixel inside the pixel's own
    corner. The box identifies a region, because two regions with the same box would touch.
    """
    twice = cv2.resize(mask.astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    # RETR_CCOMP has two levels: outlines and holes. RETR_EXTERNAL would leave out a region in the hole of another one.
    outlines, levels = cv2.findContours(twice, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    traced = {}
    for outline, level in zip(outlines, () if levels is None else levels[0], strict=True):
        if level[3] < 0:
            points = outline.reshape(-1, 2)
            (left, top), (right, bottom) = points.min(axis=0) // 2, points.max(axis=0) // 2 + 1
            traced[int(top), int(left), int(bottom), int(right)] = ((points + 0.5) / 2).tolist()
    return traced


def write_table(file: TextIO, images: Mapping[str, Findings]) -> None:
    """Write a CSV table: a line of COLUMNS for each region. `images`: the findings of each image, by its path."""
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    for path, findings in images.items():
        for number, region in enumerate(findings["regions"], 1):
            sizes = [region[name] for name in COLUMNS[-5:]]
            values = [*region["box"], region["area"], region["peak"], region["mean"], *region["centroid"], *sizes]
            cells = ["" if value is None else f"{value:.6g}" for value in values]
            writer.writerow([path, number, *cells])


def to_json(images: Mapping[str, Findings]) -> dict[str, Any]:
    """Return all findings of all images: {"images": [{"path", "size", "regions"}]}."""
    return {"images": [{"path": path, **findings} for path, findings in images.items()]}


def to_coco(images: Mapping[str, Findings]) -> dict[str, Any]:
    """Return the regions as annotations of COCO (https://cocodataset.org/#format-data).

    Each has a polygon and a box [x, y, width, height] in pixels. The area is the number of pixels, without holes. The
    score is the region's peak.
    """
    annotations: list[dict[str, Any]] = []
    entries = []
    for number, (path, findings) in enumerate(images.items(), 1):
        entries.append({"id": number, "file_name": path, "height": findings["size"][0], "width": findings["size"][1]})
        for region in findings["regions"]:
            top, left, bottom, right = region["box"]
            place = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
            shape = {"bbox": [left, top, right - left, bottom - top], "segmentation": [_flatten(region["outline"])]}
            annotations.append({**place, **shape, "area": region["area"], "score": region["peak"]})
    categories = [{"id": 1, "name": LABEL, "supercategory": ""}]
    return {"info": {}, "licenses": [], "images": entries, "annotations": annotations, "categories": categories}


def to_labelme(path: str, findings: Findings) -> dict[str, Any]:
    """Return the regions of an image in labelme's format: a polygon for each."""
    height, width = findings["size"]
    shapes = [
        {"label": LABEL, "points": region["outline"], "group_id": None, "shape_type": "polygon", "flags": {}}
        for region in findings["regions"]
    ]
    return {
        **{"version": "5.0.0", "flags": {}, "shapes": shapes, "imagePath": path},
        **{"imageData": None, "imageHeight": height, "imageWidth": width},
    }


def _flatten(points: Sequence[Sequence[float]]) -> list[float]:
    """Return [[x, y], ...] as [x, y, ...]."""
    return [value for point in points for value in point]


def as_text(values: Any) -> str:
    """Return values as JSON in one line. Bytes of file names that are not UTF-8 become escapes."""
    return json.dumps(values, allow_nan=False) + "\n"
