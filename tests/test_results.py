"""Results: to JSON and back, and what is wrong first."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from lit_ad.errors import UserError
from lit_ad.results import ImageResult, Results, gather, picture_name


def image(name: str, label: int, score: float, threshold: float | None = 1.0) -> ImageResult:
    return ImageResult(name, "nut", "good" if label == 0 else "dent", label, score, threshold, 0.5)


RESULTS = Results(
    rows={"overall": {"image_auroc": 0.75, "pixel_auroc": math.nan}, "dent": {"image_auroc": 1.0}},
    images=[
        image("hit", 1, 3.0),
        image("miss", 1, 0.25),
        image("far miss", 1, -2.0),
        image("alarm", 0, 2.5),
        image("right", 0, 1.0),
    ],
    curves={"image_roc": (np.array([0.0, 1.0]), np.array([0.5, 1.0]))},
    threshold=1.0,
    pixel_threshold=None,
    false_alarm=0.01,
)


def test_to_json_and_back(tmp_path: Path) -> None:
    RESULTS.save(tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text())["rows"]["overall"]["pixel_auroc"] is None
    again = Results.load(tmp_path / "metrics.json")
    assert again.images == RESULTS.images
    assert (again.threshold, again.pixel_threshold, again.false_alarm) == (1.0, None, 0.01)
    assert math.isnan(again.rows["overall"].pop("pixel_auroc"))
    assert again.rows == {"overall": {"image_auroc": 0.75}, "dent": {"image_auroc": 1.0}}
    for points, expected in zip(again.curves["image_roc"], RESULTS.curves["image_roc"], strict=True):
        np.testing.assert_array_equal(points, expected)


@pytest.mark.parametrize("text", ["", "{}", '{"rows": {}, "images": [{}], "curves": {}}'])
def test_what_is_no_results_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(UserError, match=r"metrics.json holds no results"):
        Results.load(tmp_path / "metrics.json")


def test_misses_are_wrong_verdicts_the_worst_first() -> None:
    assert [one.path for one in RESULTS.misses(9)] == ["far miss", "alarm", "miss"]
    assert [one.path for one in RESULTS.misses(1)] == ["far miss"]
    assert not Results({}, [image("a", 1, 0.0, threshold=None)]).misses(9)


def test_table_leaves_cells_empty_that_were_not_measured() -> None:
    head, overall, dent = RESULTS.table().splitlines()
    assert head.split()[:2] == ["image_auroc", "image_average_precision"]
    assert overall.split() == ["overall", "0.7500"]
    assert dent.split() == ["dent", "1.0000"]


def test_one_process_gathers_what_it_has() -> None:
    assert gather([1, 2]) == [1, 2]


def test_names_of_pictures() -> None:
    assert picture_name("/x/test/dent/3.png", "nut", True, ".tiff").as_posix() == "nut/dent/3.tiff"
    assert picture_name("/x/new/3.png", "new", False, ".png").as_posix() == "new/3.png"
