"""Matches equal those of trying every pair of SciPy's regions, where each region has at most one partner."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label

from lit_ad.metrics.instances import POINTS, Instances, match_regions


def boxes(*corners: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((20, 30), bool)
    for top, left, bottom, right in corners:
        mask[top:bottom, left:right] = True
    return mask


@given(st.integers(0, 2**32), st.floats(0.1, 0.6), st.floats(0, 0.3))
@settings(deadline=None, max_examples=60)
def test_matches_above_one_half_equal_those_of_trying_every_pair(seed: int, share: float, change: float) -> None:
    """Above an intersection over union of 0.5, no region has two partners."""
    random = np.random.default_rng(seed)
    truth = random.random((12, 15)) < share
    marked = truth ^ (random.random(truth.shape) < change)
    defects, regions = (
        [labels == i for i in range(1, number + 1)]
        for labels, number in (label(mask, np.ones((3, 3))) for mask in (truth, marked))
    )
    matches = match_regions(truth, marked, least=0.51)
    assert matches.marked == len(regions)
    expected = sorted(
        (int(defect.sum()), any((defect & region).sum() / (defect | region).sum() >= 0.51 for region in regions))
        for defect in defects
    )
    assert sorted(zip(matches.sizes.tolist(), matches.hit.tolist(), strict=True)) == expected


def test_a_region_finds_one_defect_and_the_best_pair_comes_first() -> None:
    truth = boxes((0, 0, 4, 4), (0, 6, 4, 12))
    marked = boxes((0, 0, 4, 12))  # 16 / 48 and 24 / 48
    assert match_regions(truth, marked).hit.tolist() == [False, True]
    assert match_regions(marked, truth).hit.tolist() == [True]  # a defect in two pieces is found once
    assert match_regions(truth, boxes((0, 0, 1, 4))).hit.tolist() == [False, False]  # 4 / 16
    assert match_regions(truth, boxes((0, 0, 2, 3))).hit.tolist() == [True, False]  # 6 / 16


def test_rows_by_hand() -> None:
    instances = Instances()
    instances.update("a/good", boxes(), boxes((0, 0, 2, 2)))
    instances.update("a/dent", boxes((0, 0, 2, 2), (5, 5, 9, 9)), boxes((5, 5, 9, 9), (15, 0, 16, 1)))
    instances.update("a/hole", boxes((0, 0, 10, 10), (15, 15, 18, 18)), boxes((0, 0, 10, 10), (15, 15, 18, 18)))
    rows = {"all": ["a/good", "a/dent", "a/hole"], "dent": ["a/good", "a/dent"], "good": ["a/good"], "none": []}
    values = instances.compute_rows(rows)
    assert values["all"]["instance_recall"] == 3 / 4
    assert values["all"]["instance_precision"] == 3 / 5
    assert values["all"]["instance_recall_smallest_quarter"] == 0  # of sizes 4, 9, 16, 100
    assert values["all"]["instance_recall_smallest_half"] == 1 / 2
    assert values["all"]["instance_recall_smallest_three_quarters"] == 2 / 3
    assert (values["dent"]["instance_recall"], values["dent"]["instance_precision"]) == (1 / 2, 1 / 3)
    assert math.isnan(values["good"]["instance_recall"]) and values["good"]["instance_precision"] == 0
    assert all(math.isnan(value) for value in values["none"].values())


@pytest.mark.parametrize("masks", [(boxes(), boxes()), (boxes((0, 0, 3, 3)), boxes()), (boxes(), boxes((0, 0, 3, 3)))])
def test_images_without_marked_regions_or_without_defects(masks: tuple[np.ndarray, np.ndarray]) -> None:
    matches = match_regions(*masks)
    assert not matches.hit.any() and matches.marked == int(masks[1].any())


def test_the_curve_is_the_recall_up_to_each_size() -> None:
    instances = Instances()
    assert instances.curves() == {}
    random, sizes = np.random.default_rng(0), []
    for group in ("a", "b"):
        for side in range(1, 30):
            truth, hit = np.zeros((30, 30), bool), random.random() < 0.5
            truth[:side, :side] = True
            sizes.append((side * side, hit))
            instances.update(group, truth, truth & hit)
    ((x, y),) = instances.curves().values()
    assert x.tolist() == [side * side for side in range(1, 30)]
    assert y == pytest.approx([np.mean([hit for size, hit in sizes if size <= most]) for most in x])
    for size in range(900, 1500):
        instances.defects["a", size, True] += 1
    x, y = instances.curves()["instances"]
    assert len(x) == POINTS and (x[0], x[-1]) == (1, 1499)
    assert y[-1] == pytest.approx((sum(hit for _, hit in sizes) + 600) / (len(sizes) + 600))
