"""Files of the regions that a prediction finds: a table, and annotations to open in labelme."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lit_ad.detector.regions import Region
from lit_ad.evaluation.judged import Judged
from lit_ad.files import atomic_write
from lit_ad.names import open_table

LABEL = "anomalous"  # of every region in annotations
COLUMNS = (
    *("path", "region", "top", "left", "bottom", "right", "area", "peak", "mean", "row", "column"),
    *("length", "width", "area_mm2", "length_mm", "width_mm"),
)


def plain(regions: Sequence[Region]) -> list[dict[str, Any]]:
    """Return regions as plain values, for JSON."""
    return [asdict(region) for region in regions]


def write_table(file: Path, images: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write a line of COLUMNS for each region: the `plain` ones of each image, by its path."""
    with atomic_write(file) as temporary, open_table(temporary) as text:
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        for path, regions in images.items():
            for number, region in enumerate(regions, 1):
                sizes = [region[name] for name in COLUMNS[-5:]]
                values = [*region["box"], region["area"], region["peak"], region["mean"], *region["centroid"], *sizes]
                cells = ["" if value is None else f"{value:.6g}" for value in values]
                writer.writerow([path, number, *cells])


def write_labelme(file: Path, judged: Judged) -> None:
    """Write the outlines of an image's regions as labelme reads them: a polygon around each, without its holes."""
    height, width = judged.size
    shapes: list[dict[str, Any]] = []
    if judged.mask is not None:
        outlines, _ = cv2.findContours(judged.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        for outline in outlines:
            points = outline.reshape(-1, 2) + 0.5  # labelme's pixels begin at their corners
            if len(points) < 3:  # which are no polygon: the box of the pixels
                points = np.array([points.min(axis=0) - 0.5, points.max(axis=0) + 0.5])
            kind = "rectangle" if len(points) == 2 else "polygon"
            shapes.append(
                {"label": LABEL, "points": points.tolist(), "group_id": None, "shape_type": kind, "flags": {}}
            )
    values = {
        **{"version": "5.0.0", "flags": {}, "shapes": shapes, "imagePath": str(judged.sample.image.absolute())},
        **{"imageData": None, "imageHeight": height, "imageWidth": width},
    }
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps(values), encoding="utf-8")
