"""Components of masks, and the map values at which a region of a given size begins, match scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from lit_ad.detector.components import find_components, find_peak_of_area

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12))
MAPS = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.integers(0, 9).map(float))
EVERY_NEIGHBOUR = np.ones((3, 3))


@given(MASKS, st.booleans())
@settings(deadline=None)
def test_components_match_scipy(mask: np.ndarray, corners: bool) -> None:
    parts = find_components(mask, corners)
    labels, number = ndimage.label(mask, EVERY_NEIGHBOUR if corners else None)
    assert len(parts.sizes) == number
    for part in range(number):  # both are in the order of their first pixels
        alone = np.arange(number) == part
        assert np.array_equal(parts.paint(alone), labels == part + 1)
        assert parts.sizes[part] == (labels == part + 1).sum()


@given(MASKS)
@settings(deadline=None)
def test_components_that_touch_a_mask_or_the_border(mask: np.ndarray) -> None:
    parts = find_components(mask)
    other = np.random.default_rng(0).random(mask.shape) > 0.8
    border = np.pad(np.zeros([max(side - 2, 0) for side in mask.shape], bool), 1, constant_values=True)
    border = border[: mask.shape[0], : mask.shape[1]]
    alone = [parts.paint(part) for part in np.eye(len(parts.sizes), dtype=bool)]
    assert parts.touches(other).tolist() == [(part & other).any() for part in alone]
    assert parts.touches_border().tolist() == [(part & border).any() for part in alone]


@given(MAPS, st.integers(1, 20))
@settings(deadline=None)
def test_thresholds_below_the_peak_of_an_area_leave_a_region_of_it(heat: np.ndarray, area: int) -> None:
    peak = find_peak_of_area(heat, area)
    for threshold in range(-1, 10):
        labels, _ = ndimage.label(heat > threshold, EVERY_NEIGHBOUR)
        largest = np.bincount(labels.ravel())[1:].max(initial=0)
        assert (largest >= area) == (threshold < peak) or heat.size < area


def test_the_peak_of_one_pixel_is_the_maximum_of_the_pixels_that_count() -> None:
    heat = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert [find_peak_of_area(heat, area) for area in (1, 2, 12, 13)] == [11, 10, 0, 0]
    assert find_peak_of_area(heat, 2, heat != 10) == 8


@pytest.mark.parametrize("shape", [(1, 1), (200, 300)])
def test_a_spiral_is_one_component(shape: tuple[int, int]) -> None:
    mask = np.zeros(shape, bool)
    mask[::4], mask[2::4] = True, True
    mask[1::4, -1:], mask[3::4, :1] = True, True  # a snake through all rows
    assert len(find_components(mask).sizes) == 1
