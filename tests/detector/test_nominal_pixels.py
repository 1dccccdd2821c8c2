"""Rates of nominal pixels from a histogram of bounded size match counts."""

import json
from itertools import permutations

import numpy as np
import pytest

from lit_ad.detector.nominal_pixels import CELLS, NominalPixels

GENERATOR = np.random.default_rng(0)
MAPS = [
    np.sort(GENERATOR.gamma(shape, size=size).astype(np.float32)) for shape, size in ((1, 900), (2, 5000), (3, 301))
]


def merge_maps(order: tuple[int, ...] = (0, 1, 2)) -> NominalPixels:
    return NominalPixels.merge(NominalPixels.from_image(MAPS[i]) for i in order)


def measure_share_above(threshold: float) -> float:
    """Return the share of pixels above a threshold, the mean over the maps."""
    return float(np.mean([(values > threshold).mean() for values in MAPS]))


@pytest.mark.parametrize("rate", [0.2, 0.05, 0.01, 0.001])
def test_a_threshold_keeps_the_rate_and_uses_nearly_all_of_it(rate: float) -> None:
    pixels = merge_maps()
    threshold = pixels.find_threshold(rate)
    above = measure_share_above(threshold)
    assert pixels.measure_share_above(threshold) == pytest.approx(above, abs=1e-7)
    assert above <= rate < above + pixels.measure_resolution(threshold) + 1e-7
    assert pixels.measure_resolution(threshold) < 0.1 * rate + 1 / 900


def test_inside_a_cell_the_share_is_an_upper_bound() -> None:
    pixels = merge_maps()
    for threshold in np.linspace(3, 9, 50):
        above = measure_share_above(threshold)
        assert (
            above - 1e-7 <= pixels.measure_share_above(threshold) <= above + pixels.measure_resolution(threshold) + 1e-7
        )


def test_no_order_matters_and_memory_is_bounded() -> None:
    first, *others = (merge_maps(order).to_dict() for order in permutations(range(3)))
    assert others == [first] * len(others)
    assert len(first["cells"]) <= CELLS


def test_each_image_has_the_same_weight() -> None:
    high, low = np.full(10, 5, np.float32), np.full(10_000, 1, np.float32)
    both = NominalPixels.merge([NominalPixels.from_image(high), NominalPixels.from_image(low)])
    assert both.measure_share_above(2) == pytest.approx(0.5)
    assert both.find_threshold(0.51) == 1 and both.find_threshold(0.4) == 5


def test_negative_values_and_maps_of_one_value() -> None:
    pixels = NominalPixels.from_image(np.full(7, -3, np.float32))
    assert (
        pixels.find_threshold(0.01) == -3
        and pixels.measure_share_above(-3) == 0
        and pixels.measure_share_above(-4) == 1
    )


def test_to_json_and_back() -> None:
    again = NominalPixels.from_dict(json.loads(json.dumps(merge_maps().to_dict())))
    assert again.to_dict() == merge_maps().to_dict() and again.find_threshold(0.01) == merge_maps().find_threshold(0.01)
