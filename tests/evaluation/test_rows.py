"""Rows of results: their images, verdicts counted by hand, and intervals by their formula."""

import math

import pytest
from scipy.stats import binomtest

from lit_ad.evaluation.results import ImageResult
from lit_ad.evaluation.rows import (
    group_rows,
    mean_row,
    nominal_mask_row,
    pixel_verdict_row,
    ratio,
    verdict_row,
    wilson,
)


def image(name: str, label: int, score: float, threshold: float | None = 1.0) -> ImageResult:
    return ImageResult(name, "nut", "good" if label == 0 else "dent", label, score, threshold, 0.5)


IMAGES = [
    image("hit", 1, 3.0),
    image("miss", 1, 0.25),
    image("far miss", 1, -2.0),
    image("alarm", 0, 2.5),
    image("right", 0, 1.0),
]


def test_a_row_has_the_good_images_of_its_category() -> None:
    one = group_rows([("a", "good"), ("a", "dent")])
    assert one == {"pooled": {"a/good", "a/dent"}, "a/dent": {"a/good", "a/dent"}}
    two = group_rows([("a", "good"), ("a", "dent"), ("b", "good"), ("b", "dent")])
    assert two["b/"] == {"b/good", "b/dent"}
    assert two["a/dent"] == {"a/good", "a/dent"}
    assert two["pooled"] == {"a/good", "a/dent", "b/good", "b/dent"}
    assert list(two) == ["pooled", "a/", "a/dent", "b/", "b/dent"]
    assert group_rows([("a", "good")]) == {"pooled": {"a/good"}}  # good images are no defect type


def test_a_ratio_with_a_total_of_0_is_nan() -> None:
    assert ratio(1, 4) == 0.25
    assert math.isnan(ratio(0, 0))


def test_verdicts_are_counted() -> None:
    row = verdict_row(IMAGES)
    assert (row["nominal_images"], row["anomalous_images"]) == (2, 3)
    assert (row["false_alarms"], row["misses"]) == (1, 2)
    assert (row["false_alarm_rate"], row["miss_rate"]) == (1 / 2, 2 / 3)
    assert (row["precision"], row["recall"]) == (1 / 2, 1 / 3)
    for name, count, total in (("false_alarm", 1, 2), ("miss", 2, 3)):
        ends = binomtest(count, total).proportion_ci(0.95, method="wilson")
        assert (row[f"{name}_rate_low"], row[f"{name}_rate_high"]) == pytest.approx((ends.low, ends.high))
    good = verdict_row([image("a", 0, 0.0)])
    assert (good["false_alarm_rate"], good["false_alarms"], good["misses"]) == (0, 0, 0)
    assert all(math.isnan(good[name]) for name in ("miss_rate", "miss_rate_low", "recall", "precision"))
    undecided = verdict_row([image("a", 0, 0.0, None), image("b", 1, 0.0, None)])
    assert (undecided["nominal_images"], undecided["anomalous_images"]) == (1, 1)
    assert all(math.isnan(undecided[name]) for name in undecided if not name.endswith("_images"))


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        (0, 10, 0.0, 3.841459 / 13.841459),  # z^2 / (n + z^2)
        (10, 10, 10 / 13.841459, 1.0),
        (5, 10, 0.5 - 0.263406, 0.5 + 0.263406),  # z / (2 sqrt(n + z^2))
        (1, 10, 0.0178762, 0.4041500),
    ],
)
def test_the_interval_of_a_rate_by_hand(count: int, total: int, low: float, high: float) -> None:
    assert wilson(count, total) == pytest.approx((low, high), abs=1e-6)


def test_without_trials_there_is_no_interval() -> None:
    for count, total in ((0, 0), (math.nan, 3)):
        assert all(map(math.isnan, wilson(count, total)))


def test_pixels_at_the_threshold() -> None:
    row = pixel_verdict_row(nominal=900, anomalous=100, hits=60, false=20)
    assert row["pixel_f1"] == pytest.approx(2 * (60 / 80) * 0.6 / (60 / 80 + 0.6))  # of precision and recall
    assert row["pixel_iou"] == pytest.approx(60 / 120)
    assert (row["pixel_recall"], row["pixel_false_positive_rate"]) == (60 / 100, 20 / 900)
    assert (row["nominal_pixels"], row["anomalous_pixels"]) == (900, 100)
    assert math.isnan(pixel_verdict_row(900, 0, 0, 20)["pixel_f1"])
    assert math.isnan(pixel_verdict_row(900, 0, 0, 20)["pixel_iou"])
    assert pixel_verdict_row(900, 100, 0, 0)["pixel_f1"] == 0
    assert math.isnan(pixel_verdict_row(900, 100, math.nan, math.nan)["pixel_f1"])


def test_the_mean_row_has_metrics_without_counts() -> None:
    rows = [
        {"image_auroc": 1.0, "image_auroc_low": 0.5, "misses": 3, "nominal_images": 3, "pixel_auroc": math.nan},
        {"image_auroc": 0.5, "image_auroc_low": 0.1, "misses": 5, "nominal_images": 3, "pixel_auroc": 0.5},
    ]
    mean = mean_row(rows)
    assert set(mean) == {"image_auroc", "pixel_auroc"}
    assert mean["image_auroc"] == 0.75
    assert math.isnan(mean["pixel_auroc"])


def test_nominal_images_with_anomalous_pixels_are_counted() -> None:
    row = nominal_mask_row([0.0, 0.02, 0.0, 0.1])
    assert row["mask_false_alarms"] == 2 and row["mask_false_alarm_rate"] == 0.5
    assert row["mask_false_alarm_rate_low"] < 0.5 < row["mask_false_alarm_rate_high"]
    assert row["nominal_share_marked"] == pytest.approx(0.03)
    assert all(math.isnan(value) for value in nominal_mask_row([]).values())
