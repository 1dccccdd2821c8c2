"""The numbers that are kept of held-out images match counts by hand and scipy."""

import numpy as np
import pytest
from scipy import ndimage

from lit_ad.detector.held_out import HeldOutImages, join_held, measure_grain
from lit_ad.image.roi import Roi

GENERATOR = np.random.default_rng(0)
MAPS = [ndimage.gaussian_filter(GENERATOR.random((20, 30)), 2).astype(np.float32) for _ in range(6)]


def collect(maps: list[np.ndarray], area: int | None = 9, roi: Roi | None = None) -> HeldOutImages:
    images = HeldOutImages(area)
    for number, heat in enumerate(maps):
        images.add("nut", float(number), heat, roi, f"{number}.png")
    return images


def test_each_map_has_its_numbers() -> None:
    held = collect(MAPS).held
    assert held["scores"]["nut"] == [0, 1, 2, 3, 4, 5]
    assert held["maxima"]["nut"] == [heat.max() for heat in MAPS]
    assert held["medians"]["nut"] == pytest.approx([np.median(heat) for heat in MAPS], abs=1e-7)
    assert all(peak < maximum for peak, maximum in zip(held["peaks"]["nut"], held["maxima"]["nut"], strict=True))
    assert held["pixels"]["nut"].measure_share_above(0.0) == 1
    assert collect(MAPS, None).held["peaks"] == {}


def test_only_the_region_of_interest_counts() -> None:
    inside = np.zeros((10, 12), bool)
    inside[3:, 2:] = True
    for roi in (Roi((5, 6, 15, 18)), Roi((5, 6, 15, 18), inside)):
        parts = [np.where(roi.make_mask(heat.shape), heat, 9) for heat in MAPS]
        counted = [heat[roi.make_mask(heat.shape)] for heat in MAPS]
        held = collect(parts, 1, roi).held
        assert held["maxima"]["nut"] == held["peaks"]["nut"] == [values.max() for values in counted]
        assert held["pixels"]["nut"].measure_share_above(8) == 0


def test_a_method_without_maps_has_only_scores() -> None:
    images = HeldOutImages(4)
    images.add("nut", 1.0, None, None)
    assert {name: dict(kept) for name, kept in images.held.items() if kept} == {"scores": {"nut": [1.0]}}


def test_a_map_that_is_not_finite_is_left_to_the_decision() -> None:
    held = collect([np.full((3, 4), value, np.float32) for value in (np.nan, np.inf)]).held
    assert not np.isfinite(held["maxima"]["nut"]).any() and not held["pixels"] and not held["peaks"]


def test_parts_are_joined_in_any_order() -> None:
    whole, parts = collect(MAPS).held, [collect(MAPS[:2]).held, collect(MAPS[2:]).held]
    for order in (parts, parts[::-1]):
        joined = join_held(order)
        assert sorted(joined["maxima"]["nut"]) == sorted(whole["maxima"]["nut"])
        assert joined["pixels"]["nut"].to_dict() == whole["pixels"]["nut"].to_dict()
        assert joined["highest"]["nut"] == [(3, "3.png"), (2, "2.png"), *[(1, "1.png")] * 2, *[(0, "0.png")] * 2]
    older = {**parts[0], "pixels": {}, "peaks": {}}  # of a checkpoint that has none
    assert not join_held([older, parts[1]])["pixels"] and not join_held([older, parts[1]])["peaks"]


def test_the_grain_is_the_highest_peak_at_half_of_its_height() -> None:
    heat = np.zeros((40, 50), np.float32)
    heat[10:14, 20:25] = 0.6
    heat[11, 22] = 1
    heat[30:40] = 0.55  # above half as well, but elsewhere
    assert measure_grain(heat, 0.0, None) == 20 == heat.size // 100
    assert measure_grain(heat, 0.3, None) == 1
    assert measure_grain(heat, 0.0, np.arange(50) < 22) == 8
    assert measure_grain(np.ones((5, 5), np.float32), 1.0, None) == 1
