"""Files of regions are read back as the same regions."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_fill_holes, label

from lit_ad.annotations import (
    COLUMNS,
    Findings,
    as_text,
    list_findings,
    to_coco,
    to_json,
    to_labelme,
    trace_outlines,
    write_table,
)
from lit_ad.batch import Sample
from lit_ad.data.masks import read_mask
from lit_ad.data.sources.labelme import draw_labelme
from lit_ad.detector.marking import Marking
from lit_ad.detector.regions import find_regions
from lit_ad.detector.scoring import Judgement
from lit_ad.evaluation.judged import Judged
from lit_ad.image.roi import Roi

SIZE = (30, 40)


def judge_boxes(*boxes: tuple[int, int, int, int], threshold: float | None = 0.5, roi: Roi | None = None) -> Judged:
    """Return a judged image whose map is 1 in boxes and 0 elsewhere."""
    heat = np.zeros(SIZE, np.float32)
    for top, left, bottom, right in boxes:
        heat[top:bottom, left:right] = 1
    seen = heat if roi is None else roi.cut_box(heat)
    judgement = Judgement(seen, 1.0, (0, 0, *seen.shape))
    known = (Sample(Path("a.png"), 1), 0, SIZE, np.zeros((*SIZE, 3), np.uint8), judgement, None, roi)
    return Judged(*known, marking=None if threshold is None else Marking(threshold), mm_per_pixel=0.5)


def findings_of(image: Judged) -> Findings:
    return list_findings(image.size, image.regions, image.mask)


def test_the_table_has_a_line_for_each_region() -> None:
    text = io.StringIO()
    write_table(
        text,
        {"b/ä.png": findings_of(judge_boxes((2, 3, 6, 13), (20, 20, 21, 21))), "c.png": findings_of(judge_boxes())},
    )
    rows = list(csv.DictReader(io.StringIO(text.getvalue())))
    assert [row["path"] for row in rows] == ["b/ä.png"] * 2 and tuple(rows[0]) == COLUMNS
    values = [float(rows[0][name]) for name in COLUMNS[1:]]
    assert values == [1, 2, 3, 6, 13, 40, 1, 1, 3.5, 7.5, 10, 4, 10, 5, 2]
    assert rows[1]["region"] == "2" and rows[1]["area_mm2"] == "0.25"


@pytest.mark.parametrize("seed", range(4))
def test_labelme_files_give_back_the_regions_pixel_by_pixel(seed: int, tmp_path: Path) -> None:
    """Our reader of labelme's files reads them. Holes are filled. Masks have single pixels and touching corners."""
    mask = np.random.default_rng(seed).random(SIZE) < (0.05, 0.2, 0.35, 0.5)[seed]
    mask[0, :5], mask[5:9, 0], mask[-1, -1] = True, True, True
    found = list_findings(SIZE, find_regions(mask, mask.astype(np.float32)), mask)
    (tmp_path / "a.json").write_text(as_text(to_labelme("a.png", found)))
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(tmp_path / "a.png")

    parts, count = label(mask, np.ones((3, 3)))
    filled = np.any([binary_fill_holes(parts == part + 1) for part in range(count)], axis=0)
    assert np.array_equal(read_mask(draw_labelme(tmp_path / "a.json", tmp_path / "a.png")), filled)
    told = json.loads((tmp_path / "a.json").read_text())
    assert (told["imageHeight"], told["imageWidth"]) == SIZE and len(told["shapes"]) == count


def test_a_region_in_the_hole_of_another_one_has_an_outline() -> None:
    mask = np.zeros(SIZE, bool)
    mask[2:12, 2:12], mask[4:10, 4:10], mask[6:8, 6:8] = True, False, True
    assert trace_outlines(mask) == {
        (2, 2, 12, 12): [[2.25, 2.25], [2.25, 11.75], [11.75, 11.75], [11.75, 2.25]],
        (6, 6, 8, 8): [[6.25, 6.25], [6.25, 7.75], [7.75, 7.75], [7.75, 6.25]],
    }


def test_coco_has_images_boxes_and_polygons() -> None:
    images = {"b/0.png": findings_of(judge_boxes()), "1.png": findings_of(judge_boxes((2, 3, 6, 13), (20, 20, 21, 21)))}
    told = json.loads(as_text(to_coco(images)))
    assert told["images"] == [
        {"id": 1, "file_name": "b/0.png", "height": 30, "width": 40},
        {"id": 2, "file_name": "1.png", "height": 30, "width": 40},
    ]
    first, second = told["annotations"]
    assert {name: first[name] for name in ("id", "image_id", "category_id", "iscrowd", "area", "bbox", "score")} == {
        **{"id": 1, "image_id": 2, "category_id": 1, "iscrowd": 0, "area": 40, "bbox": [3, 2, 10, 4], "score": 1.0}
    }
    assert first["segmentation"] == [[3.25, 2.25, 3.25, 5.75, 12.75, 5.75, 12.75, 2.25]]
    assert second["id"] == 2 and told["categories"][0]["id"] == 1
    described = json.loads(as_text(to_json(images)))["images"][1]["regions"]
    assert described[0]["area_mm2"] == 10 and described[0]["outline"][0] == [3.25, 2.25]


def test_no_regions_without_a_threshold_or_outside_the_region_of_interest() -> None:
    assert findings_of(judge_boxes((2, 3, 6, 13), threshold=None))["regions"] == []
    roi = Roi((0, 0, 10, 20), None, None)
    assert [
        region["area"] for region in findings_of(judge_boxes((2, 3, 6, 13), (20, 20, 22, 22), roi=roi))["regions"]
    ] == [40]
