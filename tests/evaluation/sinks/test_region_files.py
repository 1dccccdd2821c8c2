"""What predict writes of regions, read again."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from lit_ad.batch import Sample
from lit_ad.detector.scoring import Judgement
from lit_ad.evaluation.judged import Judged
from lit_ad.evaluation.sinks.region_files import COLUMNS, plain, write_labelme, write_table
from lit_ad.image.roi import Roi

SIZE = (30, 40)


def judged(*boxes: tuple[int, int, int, int], threshold: float | None = 0.5, roi: Roi | None = None) -> Judged:
    """An image whose map is 1 in boxes and 0 elsewhere."""
    heat = np.zeros(SIZE, np.float32)
    for top, left, bottom, right in boxes:
        heat[top:bottom, left:right] = 1
    seen = heat if roi is None else roi.boxed(heat)
    judgement = Judgement(seen, 1.0, (0, 0, *seen.shape))
    known = (Sample(Path("a.png"), 1), 0, SIZE, np.zeros((*SIZE, 3), np.uint8), judgement, None, roi)
    return Judged(*known, pixel_threshold=threshold, mm_per_pixel=0.5)


def test_a_line_for_each_region(tmp_path: Path) -> None:
    regions = plain(judged((2, 3, 6, 13), (20, 20, 21, 21)).regions)
    write_table(tmp_path / "regions.csv", {"b/ä.png": regions, "c.png": []})
    with (tmp_path / "regions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["b/ä.png"] * 2 and tuple(rows[0]) == COLUMNS
    values = [float(rows[0][name]) for name in COLUMNS[1:]]
    assert values == [1, 2, 3, 6, 13, 40, 1, 1, 3.5, 7.5, 10, 4, 10, 5, 2]
    assert rows[1]["region"] == "2" and rows[1]["area_mm2"] == "0.25"


def test_labelme_draws_the_regions(tmp_path: Path) -> None:
    image = judged((2, 3, 6, 13), (20, 20, 21, 21), (25, 0, 30, 9))
    write_labelme(tmp_path / "a.json", image)
    told = json.loads((tmp_path / "a.json").read_text())
    assert (told["imageHeight"], told["imageWidth"]) == SIZE and told["imageData"] is None
    drawn = np.zeros(SIZE, np.uint8)
    for shape in told["shapes"]:
        corners = np.floor(shape["points"]).astype(np.int32)
        if shape["shape_type"] == "rectangle":
            assert shape["points"] == [[20, 20], [21, 21]]
            corners = corners[:1]
        cv2.fillPoly(drawn, [corners], 1)
    assert np.array_equal(drawn.astype(bool), image.mask)


def test_without_a_threshold_and_outside_of_what_is_looked_at(tmp_path: Path) -> None:
    assert judged((2, 3, 6, 13), threshold=None).regions == []
    write_labelme(tmp_path / "a.json", judged((2, 3, 6, 13), threshold=None))
    assert json.loads((tmp_path / "a.json").read_text())["shapes"] == []
    roi = Roi((0, 0, 10, 20), None, None)
    assert [region.area for region in judged((2, 3, 6, 13), (20, 20, 22, 22), roi=roi).regions] == [40]


@pytest.mark.parametrize("box", [(0, 0, 1, 5), (0, 0, 5, 1)])
def test_a_line_of_pixels_is_a_rectangle(box: tuple[int, int, int, int], tmp_path: Path) -> None:
    write_labelme(tmp_path / "a.json", judged(box))
    (shape,) = json.loads((tmp_path / "a.json").read_text())["shapes"]
    assert shape["points"] == [[0, 0], [box[3], box[2]]]
