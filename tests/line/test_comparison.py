"""The old and the new detector are compared by their wrong verdicts."""

import json
from pathlib import Path

import pytest

from lit_ad.data.splits import Splits
from lit_ad.errors import UserError
from lit_ad.line.comparison import Comparison, compare, compute_image_auroc, list_reasons_against, to_dict, to_rows
from lit_ad.line.growth import (
    DEFECTS,
    OLD_DEFECTS,
    OLD_GOOD,
    SAMPLED,
    SELECTED,
    Growth,
    gather_images,
    with_splits,
)
from tests.deploy.test_journal import DECISION, detector
from tests.line.conftest import label


def test_detectors_are_compared(splits: Splits, folder: Path) -> None:
    label(folder, {**dict.fromkeys(range(1, 41), "good"), 60: "defect"})
    growth = gather_images(splits, folder, only_new_decide=True)  # all new scores are 120, so the new threshold is 120
    old, new = detector(), detector(DECISION.with_threshold(130.0))
    comparisons, aurocs = compare(old, new, growth)
    counts = {each.group: (each.images, each.old, each.anew, each.new) for each in comparisons}
    assert counts[OLD_GOOD] == (2, 1, 0, 0) and counts[OLD_DEFECTS] == (2, 1, 2, 2)
    sampled = len(growth.groups[SAMPLED])
    assert counts[DEFECTS] == (1, 0, 1, 1) and counts[SAMPLED] == (sampled, sampled, 0, 0)
    assert aurocs == {"old": 0.5, "new": 0.5}  # 97 and 40 against 30 and 99
    assert list_reasons_against(comparisons) == [
        "more misses (1 of 1 confirmed defects; the old one 0, and 1 with thresholds made anew)"
    ]
    assert to_rows(comparisons)[0][:2] == [OLD_GOOD, "2"]
    with pytest.raises(UserError, match="without a threshold cannot be compared"):
        compare(old, detector(None), growth)


def test_only_held_out_images_set_the_new_thresholds_of_the_old_detector(splits: Splits) -> None:
    """All held-out scores are 20. The scores of training images are lower, and those of test images are higher."""
    good = [sample for sample in splits.test if not sample.label]
    defects = [sample for sample in splits.test if sample.label]
    growth = Growth(list(with_splits(splits)), {OLD_GOOD: good, OLD_DEFECTS: defects}, {})
    comparisons, _ = compare(detector(), detector(), growth)
    assert [each.anew for each in comparisons] == [2, 0]


def test_reasons_against_a_worse_detector() -> None:
    assert list_reasons_against([Comparison(DEFECTS, 9, 2, 4, 5), Comparison(SAMPLED, 9, 3, 1, 3)]) == [
        "more misses (5 of 9 confirmed defects; the old one 2, and 4 with thresholds made anew)"
    ]
    assert (
        len(list_reasons_against([Comparison(DEFECTS, 9, 2, 6, 5)])) == 1
    )  # also if the old one is no better with new thresholds
    assert not list_reasons_against(
        [Comparison(DEFECTS, 9, 5, 4, 5), Comparison(OLD_GOOD, 5, 0, 0, 3)]
    )  # the old test gives no reason


@pytest.mark.parametrize("group", [SAMPLED, SELECTED])
def test_more_false_alarms_on_confirmed_images_are_a_reason(group: str) -> None:
    assert list_reasons_against([Comparison(group, 9, 2, 4, 3)]) == [
        f"more false alarms (3 of 9 {group}; the old one 2, and 4 with thresholds made anew)"
    ]


def test_the_report_has_a_row_for_each_group_and_the_same_numbers_as_json() -> None:
    comparisons = [Comparison(OLD_GOOD, 20, 3, 2, 10), Comparison(DEFECTS, 9, 2, 4, 0)]
    assert to_rows(comparisons) == [
        [OLD_GOOD, "20", "3", "2", "10", "29.9 to 70.1 %"],
        [DEFECTS, "9", "2", "4", "0", "0.0 to 29.9 %"],
    ]
    report = to_dict(comparisons, {"old": 0.5, "new": 0.75}, {"train": 7})
    assert json.loads(json.dumps(report)) == {
        "comparisons": [
            {"group": OLD_GOOD, "images": 20, "old": 3, "anew": 2, "new": 10},
            {"group": DEFECTS, "images": 9, "old": 2, "anew": 4, "new": 0},
        ],
        "image_auroc": {"old": 0.5, "new": 0.75},
        "joined": {"train": 7},
    }


@pytest.mark.parametrize("group", [OLD_GOOD, OLD_DEFECTS])
def test_without_good_images_or_without_defects_the_old_test_has_no_auroc(
    splits: Splits, folder: Path, group: str
) -> None:
    label(folder, dict.fromkeys(range(1, 41), "good"))
    growth = gather_images(splits, folder)
    del growth.groups[group]
    comparisons, aurocs = compare(detector(), detector(), growth)
    assert aurocs == {} and {each.group for each in comparisons} == set(growth.groups)


@pytest.mark.parametrize(
    ("nominal", "anomalous", "expected"), [([1, 2], [3, 4], 1.0), ([1, 3], [2, 3], 0.625), ([2], [1], 0.0)]
)
def test_auroc_by_pairs(nominal: list[float], anomalous: list[float], expected: float) -> None:
    assert compute_image_auroc(nominal, anomalous) == expected


def test_wilsons_interval() -> None:
    low, high = Comparison(DEFECTS, 20, 0, 0, 1).compute_interval()
    z, p, n = 1.959964, 1 / 20, 20
    middle, half = p + z**2 / (2 * n), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    assert (low, high) == pytest.approx([(middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)], rel=1e-5)
