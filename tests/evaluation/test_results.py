"""Results: they survive JSON, list the worst misses first, and explain empty cells of their table."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist

from lit_ad.distributed import gather
from lit_ad.errors import UserError
from lit_ad.evaluation.results import COLUMNS, SAMPLE_AUROC, ImageResult, Results
from lit_ad.evaluation.rows import verdict_row
from tests.evaluation.test_rows import IMAGES, image
from tests.processes import run_processes

RESULTS = Results(
    rows={
        "pooled": {"image_auroc": 0.75, "pixel_auroc": math.nan, **verdict_row(IMAGES)},
        "nut/dent": {"image_auroc": 1.0, "nominal_images": 2, "anomalous_images": 3},
    },
    images=IMAGES,
    curves={"image_roc": (np.array([0.0, 1.0]), np.array([0.5, 1.0]))},
    threshold=1.0,
    pixel_threshold=None,
    false_alarm=0.01,
)


def test_results_survive_json(tmp_path: Path) -> None:
    RESULTS.maps = False
    RESULTS.save(tmp_path / "metrics.json")
    RESULTS.maps = True
    assert json.loads((tmp_path / "metrics.json").read_text())["rows"]["pooled"]["pixel_auroc"] is None
    again = Results.load(tmp_path / "metrics.json")
    assert again.images == RESULTS.images
    assert (again.threshold, again.pixel_threshold, again.false_alarm, again.maps) == (1.0, None, 0.01, False)
    assert math.isnan(again.rows["pooled"].pop("pixel_auroc"))
    assert again.rows["pooled"] == {"image_auroc": 0.75, **verdict_row(IMAGES)}
    assert again.rows["nut/dent"] == RESULTS.rows["nut/dent"]
    for points, expected in zip(again.curves["image_roc"], RESULTS.curves["image_roc"], strict=True):
        np.testing.assert_array_equal(points, expected)


@pytest.mark.parametrize("text", ["", "{}", '{"rows": {}, "images": [{}], "curves": {}}'])
def test_a_file_without_results_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(UserError, match=r"metrics.json has no results"):
        Results.load(tmp_path / "metrics.json")


def test_misses_are_wrong_verdicts_the_worst_first() -> None:
    assert [one.path for one in RESULTS.worst_wrong_verdicts(9)] == ["far miss", "alarm", "miss"]
    assert [one.path for one in RESULTS.worst_wrong_verdicts(1)] == ["far miss"]
    assert not Results({}, [image("a", 1, 0.0, threshold=None)]).worst_wrong_verdicts(9)


def test_how_far_a_verdict_is_wrong() -> None:
    assert [one.wrong_by for one in IMAGES] == [-2, 0.75, 3, 1.5, 0]
    assert [one.anomalous for one in IMAGES] == [True, False, False, True, False]
    without = image("a", 1, 0.0, threshold=None)
    assert (without.wrong_by, without.anomalous, without.is_wrong) == (0, None, False)


def test_the_table_says_why_a_cell_is_empty() -> None:
    both = {"image_auroc": 0.5, "nominal_images": 4, "anomalous_images": 3, "false_alarms": 1, "misses": 2}
    both |= {"false_alarm_rate": 0.25, "miss_rate": 2 / 3, "anomalous_pixels": 9, "nominal_pixels": 9}
    unmasked = {**both, "anomalous_pixels": 0}
    good = {"nominal_images": 4, "anomalous_images": 0, "false_alarms": 1, "misses": 0, "false_alarm_rate": 0.25}
    mean = {"image_auroc": 0.5, "false_alarm_rate": 0.125, "miss_rate": math.nan}
    results = Results({"pooled": {**both, "pixel_auroc": 0.25}, "mean": mean, "a/": unmasked, "b/": good}, [])
    results.threshold, results.pixel_threshold = 1.0, 1.0

    def cells(row: str, table: int) -> list[str]:
        return [line for line in results.table().splitlines() if line.startswith(row)][table].split()

    lines = results.table().splitlines()
    assert [line.split() for line in (*lines[:3], *lines[8:11])] == [  # a title has a line for each of its words
        ["image", "image", "image", "false", "misses"],
        ["auroc", "average", "f1", "alarms"],
        ["precision", "max"],
        ["pixel", "pixel", "aupro", "aupimo", "instance", "instance"],
        ["auroc", "f1", "30", "recall", "precision"],
        ["max"],
    ]
    notes = dict(line.split(" ", 1) for line in lines if line.startswith("("))
    assert cells("pooled", 0)[1] == "0.5000" and cells("pooled", 1)[1] == "0.2500"
    assert cells("pooled", 0)[-2:] == ["1/4", "2/3"]
    assert cells("mean", 0)[-3:-1] == ["12.5", "%"]
    assert notes[cells("mean", 0)[-1]] == "no mean: not every category has a value"
    assert notes[cells("a/", 1)[1]] == "no anomalous pixel: masks are missing, or empty"
    assert notes[cells("b/", 0)[1]] == notes[cells("b/", 1)[1]] == notes[cells("b/", 0)[-1]] == "no anomalous image"
    assert cells("b/", 0)[-2] == "1/4"
    assert "no region above the pixel threshold" in notes.values()
    assert len(set(map(len, lines[3:7]))) == len(set(map(len, lines[11:15]))) == 1  # aligned
    results.maps = False
    assert "no figures of pixels: the method gives scores only" in results.table()
    assert "aupimo" not in results.table()
    results.threshold = None
    results.rows["a/"]["false_alarm_rate"] = math.nan
    assert "no threshold: no held-out image was scored by the checkpoint's weights" in results.table()
    results.rows = {"pooled": {**both, "nominal_images": 0, "image_auroc": math.nan}}
    assert "(a) no good image\n" in results.table()


def test_a_table_is_at_most_100_columns_wide() -> None:
    """With a long name, many images, and the column of several views of a part."""
    many = dict.fromkeys((*COLUMNS, SAMPLE_AUROC, "false_alarm_rate", "miss_rate"), 0.5)
    many |= {"false_alarms": 12345, "nominal_images": 26881, "misses": 12345, "anomalous_images": 51329}
    results = Results({"pooled": many, "toothbrush/defective_with_a_long_name": many}, [])
    results.threshold, results.pixel_threshold = 1.0, 1.0
    lines = results.table().splitlines()
    assert max(map(len, lines)) <= 100
    assert all(word in results.table().split() for name in COLUMNS for word in name.split("_"))


def test_scores_are_written_per_image(tmp_path: Path) -> None:
    odd = ImageResult("/x/a, b.png", "nut", "dent", 1, 1.23456789, 1e-7 / 3, 1 / 3)
    Results({}, [odd, image("c", 0, 0.5), image("d", 0, 0.5, None)]).save_scores(tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="") as file:
        first, second, third = csv.DictReader(file)
    assert first == {
        **{"path": "/x/a, b.png", "category": "nut", "defect": "dent", "label": "1", "score": "1.23457"},
        **{"p_value": "0.333333", "verdict": "anomalous", "threshold": "3.33333e-08"},
    }
    assert (second["verdict"], second["label"], second["defect"]) == ("nominal", "0", "good")
    assert (third["verdict"], third["threshold"]) == ("", "")


def test_one_process_gathers_its_own_values() -> None:
    assert gather([1, 2]) == [1, 2]


def gathering(rank: int, store: Path) -> None:
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    mine = [image(f"{rank} miss", 1, -float(rank)), image(f"{rank} right", 0, 0.0)]
    everything = Results({}, gather(mine))
    assert [one.path for one in everything.worst_wrong_verdicts(9)] == ["1 miss", "0 miss"]
    assert [one.path for one in everything.images] == ["0 miss", "0 right", "1 miss", "1 right"]
    dist.destroy_process_group()


def test_worst_misses_are_those_of_all_processes(tmp_path: Path) -> None:
    run_processes(gathering, tmp_path / "store")
