"""The page's table of metrics: its intervals and its cells."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_ad.evaluation.report.table import add_intervals, make_lines, select_row
from lit_ad.metrics.intervals import IMAGE_METRICS, bootstrap


def test_intervals_are_those_of_the_bootstrap(make_run: Any, tmp_path: Path) -> None:
    _, results, _ = make_run(tmp_path / "run")
    filled = add_intervals(results)
    for row in ("pooled", "nut/", "nut/dent"):
        images = select_row(results.images, row)
        kept = [one for one in results.images if row == "pooled" or one.category == "nut"]
        assert images == [one for one in kept if row != "nut/dent" or one.defect in ("good", "dent")]
        order = sorted(images, key=lambda one: one.score)  # no two scores are the same
        nominal, anomalous = (np.array([one.label == label for one in order]).astype(int) for label in (0, 1))
        expected = bootstrap(list(IMAGE_METRICS.values()), nominal, anomalous)
        for name, (low, high) in zip(IMAGE_METRICS, expected, strict=True):
            assert (filled.rows[row][f"{name}_low"], filled.rows[row][f"{name}_high"]) == (low, high)
        assert filled.rows[row]["image_auroc_low"] < results.rows[row]["image_auroc"]
    given = {"image_auroc_low": 0.1, "image_auroc_high": 0.2}
    results.rows["pooled"] |= given  # of the test, with --evaluation.bootstrap
    assert {name: add_intervals(results).rows["pooled"][name] for name in given} == given
    assert filled.rows["mean"] == pytest.approx(results.rows["mean"], nan_ok=True)


def test_cells_have_a_value_an_interval_or_a_reason(make_run: Any, tmp_path: Path) -> None:
    _, results, _ = make_run(tmp_path / "run")
    lines = {row: line for row, _, line in make_lines({"run": add_intervals(results)}, list(results.rows))}
    pooled = results.rows["pooled"]
    auroc, *_, aupro, _, _, instances, alarms, misses = lines["pooled"]
    assert auroc.value == f"{pooled['image_auroc']:.4f}" and re.fullmatch(r"0\.\d{3} to [01]\.\d{3}", auroc.interval)
    assert alarms.value == f"{pooled['false_alarms']:.0f}/24" and misses.value == f"{pooled['misses']:.0f}/20"
    assert alarms.interval.endswith(f"to {100 * pooled['false_alarm_rate_high']:.0f} %")
    assert math.isnan(pooled["aupro_30"]) and aupro.value == "" and aupro.why == "no nominal pixel"
    assert instances.value == "" and instances.why == "no region above the pixel threshold"
