"""The table of how many images a run has, and how many its rate needs."""

from typing import Any

import numpy as np
import pytest

from lit_ad.detector.decision import Decision
from lit_ad.detector.summary import summarize
from lit_ad.evaluation.report.enough import HEIGHT, WIDTH, draw, list_threshold_lines
from lit_ad.evaluation.results import ImageResult, Results
from lit_ad.evaluation.rows import verdict_row


def results(decision: Decision, misses: int = 1) -> Results:
    """Results with 20 anomalous images, some of them missed."""
    threshold = decision.threshold()
    scores = [threshold - 1] * misses + [threshold + 1] * (20 - misses)
    images = [ImageResult(f"{i}.png", "nut", "dent", 1, score, threshold) for i, score in enumerate(scores)]
    rows = {"pooled": verdict_row(images), "nut/": verdict_row(images)}
    return Results(rows, images, threshold=threshold, false_alarm=decision.false_alarm, decision=summarize(decision))


def decision(count: int, rate: float = 0.05, **more: Any) -> Decision:
    return Decision({"nut": np.arange(float(count))}, false_alarm=rate, **more)


def test_too_few_held_out_images() -> None:
    (line,) = list_threshold_lines(results(decision(9)))
    assert (line.name, line.deciding, line.lowest) == ("all images", "9 (held out of training)", "10 %")
    assert (line.more, line.promised) == ("10 more", "50 more for 95 % confidence")  # 19, and 59
    assert line.recall == "19 of 20: 76 to 99 %"  # Wilson's interval


def test_enough_held_out_images() -> None:
    (line,) = list_threshold_lines(results(decision(59)))
    assert (line.more, line.promised) == ("enough", "enough for 95 % confidence")


@pytest.mark.parametrize(
    ("more", "promised"),
    [({"folds": {"nut": [2, 2, 2, 2, 1]}}, "not possible with folds"), ({}, "not possible: the rate is approximate")],
)
def test_promises_that_no_number_of_images_gives(more: dict[str, Any], promised: str) -> None:
    chosen: dict[str, Any] = {} if more else {"also_chosen": {"nut": ["the epoch"]}}
    (line,) = list_threshold_lines(results(decision(9, **more, **chosen)))
    assert line.promised == promised and line.deciding.startswith("9 (all, by 5 folds)" if more else "9 (held out")


def test_a_confidence_that_was_asked_for_counts() -> None:
    """9 images keep 22.6 % with 90 % confidence: 0.774 ** 9 is 0.1. 15 % takes 15 images: 0.85 ** 15 is 0.087."""
    told = results(decision(9, rate=0.15, confidence=0.9))
    (line,) = list_threshold_lines(told)
    assert (line.lowest, line.more) == ("22.6 % with 90 % confidence", "6 more")
    assert line.promised == "6 more for 90 % confidence"
    picture = draw(told)
    assert picture is not None and picture.have[0][1] == pytest.approx(HEIGHT * np.log10(1 - 0.1 ** (1 / 9)) / -3)


def test_each_category_has_a_line() -> None:
    several = Decision({"nut": np.arange(9.0), "bolt": np.arange(19.0)}, false_alarm=0.05)
    lines = list_threshold_lines(results(several))
    assert [(line.name, line.lowest) for line in lines] == [("bolt", "5 %"), ("nut", "10 %"), ("all images", "3.45 %")]
    assert lines[0].recall == "no anomalous image was tested"
    picture = draw(results(several))
    assert picture is not None and len(set(picture.have)) == 3


def test_no_line_without_a_rate() -> None:
    by_hand = results(decision(9).with_threshold(3.0))
    assert list_threshold_lines(by_hand) == [] and list_threshold_lines(Results({"pooled": {}}, [])) == []
    assert draw(Results({"pooled": {}}, [])) is None


def test_the_picture_has_the_run_on_the_line() -> None:
    picture = draw(results(decision(9, rate=0.01)))
    assert picture is not None
    points = [tuple(map(float, point.split(","))) for point in picture.line.split()]
    assert points[0][0] == 0 and points[-1] == pytest.approx((WIDTH, HEIGHT), abs=0.2)
    ((x, y),) = picture.have
    assert (x, y) == pytest.approx((WIDTH * np.log10(9) / 3, HEIGHT / 3))
    assert picture.asked == pytest.approx(2 * HEIGHT / 3) and (round(x, 1), round(y, 1)) in points
