"""Regions as files that other programs read: a table, JSON, COCO's annotations, and labelme's."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, TextIO, TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray

from lit_ad.detector.regions import Region

Format = Literal["csv", "json", "coco", "labelme"]
LABEL = "anomalous"  # of every region in annotations
COLUMNS = (
    *("path", "region", "top", "left", "bottom", "right", "area", "peak", "mean", "row", "column"),
    *("length", "width", "area_mm2", "length_mm", "width_mm"),
)


class Findings(TypedDict):
    """The regions of an image, as plain values for JSON."""

    size: Sequence[int]  # height and width of the image
    regions: Sequence[Mapping[str, Any]]  # the fields of Region, and `outline`: its corners, [x, y] each


def plain(size: Sequence[int], regions: Sequence[Region], mask: NDArray[np.bool_] | None) -> Findings:
    """Return an image's regions, which are those of its mask (H, W), as plain values."""
    outlines = {} if mask is None else trace(mask)
    return {"size": list(size), "regions": [{**asdict(each), "outline": outlines[each.box]} for each in regions]}


def trace(mask: NDArray[np.bool_]) -> dict[tuple[int, int, int, int], list[list[float]]]:
    """The outline of each region of a mask (H, W), without its holes: the corners of a polygon, by the region's box.

    A pixel of the region has its centre inside of the polygon, and any other one outside, if it lies in no hole: the
    mask is traced at twice its size, where a corner lies a quarter of a pixel inside of the pixel's own. No two
    regions have one box: where one joins left and right, and the other top and bottom, they touch.
    """
    twice = cv2.resize(mask.astype(np.uint8), None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    # Of two levels, holes are the second one. RETR_EXTERNAL would leave out a region inside of another one's hole.
    outlines, levels = cv2.findContours(twice, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    traced = {}
    for outline, level in zip(outlines, () if levels is None else levels[0], strict=True):
        if level[3] < 0:
            points = outline.reshape(-1, 2)
            (left, top), (right, bottom) = points.min(axis=0) // 2, points.max(axis=0) // 2 + 1
            traced[int(top), int(left), int(bottom), int(right)] = ((points + 0.5) / 2).tolist()
    return traced


def write_table(file: TextIO, images: Mapping[str, Findings]) -> None:
    """Write a line of COLUMNS for each region, by the images' paths."""
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    for path, findings in images.items():
        for number, region in enumerate(findings["regions"], 1):
            sizes = [region[name] for name in COLUMNS[-5:]]
            values = [*region["box"], region["area"], region["peak"], region["mean"], *region["centroid"], *sizes]
            cells = ["" if value is None else f"{value:.6g}" for value in values]
            writer.writerow([path, number, *cells])


def to_json(images: Mapping[str, Findings]) -> dict[str, Any]:
    """Every figure of every region: {"images": [{"path", "size", "regions"}]}."""
    return {"images": [{"path": path, **findings} for path, findings in images.items()]}


def to_coco(images: Mapping[str, Findings]) -> dict[str, Any]:
    """COCO's annotations (https://cocodataset.org/#format-data): a polygon and a box [x, y, width, height] in pixels.

    The area is that of the pixels, without those of holes, and the score the region's peak.
    """
    annotations: list[dict[str, Any]] = []
    listed = []
    for number, (path, findings) in enumerate(images.items(), 1):
        listed.append({"id": number, "file_name": path, "height": findings["size"][0], "width": findings["size"][1]})
        for region in findings["regions"]:
            top, left, bottom, right = region["box"]
            place = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": 0}
            shape = {"bbox": [left, top, right - left, bottom - top], "segmentation": [flat(region["outline"])]}
            annotations.append({**place, **shape, "area": region["area"], "score": region["peak"]})
    categories = [{"id": 1, "name": LABEL, "supercategory": ""}]
    return {"info": {}, "licenses": [], "images": listed, "annotations": annotations, "categories": categories}


def to_labelme(path: str, findings: Findings) -> dict[str, Any]:
    """An image's regions as labelme reads them: a polygon for each."""
    height, width = findings["size"]
    shapes = [
        {"label": LABEL, "points": region["outline"], "group_id": None, "shape_type": "polygon", "flags": {}}
        for region in findings["regions"]
    ]
    return {
        **{"version": "5.0.0", "flags": {}, "shapes": shapes, "imagePath": path},
        **{"imageData": None, "imageHeight": height, "imageWidth": width},
    }


def flat(points: Sequence[Sequence[float]]) -> list[float]:
    """[[x, y], ...] -> [x, y, ...]."""
    return [value for point in points for value in point]


def as_text(values: Any) -> str:
    """JSON in one line; any name of a file is in it, bytes that are not UTF-8 as escapes."""
    return json.dumps(values, allow_nan=False) + "\n"
