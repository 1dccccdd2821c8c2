"""The table of the false-alarm rates that a benchmark's decisions reached."""

from typing import Any

import numpy as np
import pytest

from lit_ad.benchmark.false_alarms import compute_allowed_rate, describe_false_alarms
from lit_ad.detector.decision import Decision
from lit_ad.detector.summary import summarize
from lit_ad.evaluation.results import ImageResult, Results
from lit_ad.evaluation.rows import verdict_row


def run(alarms: int, missed: int, decision: Decision | None) -> tuple[Results, Any]:
    """Results of 10 nominal and 10 anomalous images."""
    above = [i < alarms for i in range(10)] + [i >= missed for i in range(10)]
    threshold = None if decision is None else 0.5
    images = [ImageResult(f"{i}.png", "", "", i // 10, float(high), threshold) for i, high in enumerate(above)]
    told = None if decision is None else summarize(decision)
    row = verdict_row(images)
    rate = None if decision is None else decision.false_alarm
    return Results({"pooled": row}, images, threshold=threshold, false_alarm=rate, decision=told), row


def test_a_cell_has_the_rate_reached_the_rate_allowed_and_the_recall() -> None:
    decision = Decision({"": np.arange(4.0)}, false_alarm=0.01)
    runs = [("A", "t", *run(1, 2, decision)), ("A", "t", *run(2, 4, decision)), ("B", "t", *run(0, 0, None))]
    about, table = describe_false_alarms(runs, ["A", "B"], ["t", "u"])
    assert table == [["t", "15.0 / 20.0 / 70.0", ""]]
    assert about.endswith("Asked for: 1 %.")


def test_no_row_without_a_decision() -> None:
    assert describe_false_alarms([("A", "t", *run(1, 1, None))], ["A"], ["t"])[1] == []
    by_hand = Decision({"": np.arange(4.0)}).with_threshold(0.5)
    assert compute_allowed_rate(run(1, 1, by_hand)[0]) is None


def test_the_rate_of_several_categories_is_the_mean_of_theirs() -> None:
    several = Decision({"nut": np.arange(4.0), "bolt": np.arange(9.0)})
    assert compute_allowed_rate(run(1, 1, several)[0]) == pytest.approx((1 / 5 + 1 / 10) / 2)


def test_a_rate_above_the_lowest_is_in_effect() -> None:
    """16 images allow 5.9 %, and the detector keeps the 10 % that were asked for."""
    about, table = describe_false_alarms(
        [("A", "t", *run(1, 1, Decision({"": np.arange(16.0)}, false_alarm=0.1)))], ["A"], ["t"]
    )
    assert table == [["t", "10.0 / 10.0 / 90.0"]]
    assert "the rate in effect, which is the one asked for or, if higher, the lowest that the deciding images" in about
