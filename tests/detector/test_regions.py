"""Regions and their sizes match OpenCV."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_ad.detector.regions import find_regions


@given(st.integers(0, 2**32), st.floats(0.02, 0.7))
@settings(deadline=None, max_examples=60)
def test_regions_match_opencv(seed: int, share: float) -> None:
    generator = np.random.default_rng(seed)
    mask = generator.random((int(generator.integers(1, 24)), int(generator.integers(1, 24)))) < share
    heat = generator.random(mask.shape).astype(np.float32)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    expected = []
    for label in range(1, count):
        left, top, width, height, area = (int(value) for value in stats[label])
        expected.append((-float(heat[labels == label].max()), (top, left, top + height, left + width), area))
    found = find_regions(mask, heat)
    assert [(-one.peak, one.box, one.area) for one in found] == sorted(expected)


@given(st.integers(0, 2**32), st.floats(0.02, 0.7))
@settings(deadline=None, max_examples=60)
def test_sizes_match_opencv(seed: int, share: float) -> None:
    generator = np.random.default_rng(seed)
    mask = generator.random((int(generator.integers(1, 24)), int(generator.integers(1, 24)))) < share
    heat = generator.random(mask.shape).astype(np.float32)
    _, labels, _, centroids = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    for region in find_regions(mask, heat):
        label = int(labels[heat == np.float32(region.peak)][0])
        inside = labels == label
        corners = np.argwhere(inside)[:, None] + np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
        _, sides, _ = cv2.minAreaRect(corners.reshape(-1, 2).astype(np.float32))
        assert region.length * region.width == pytest.approx(sides[0] * sides[1], rel=1e-4)
        assert region.length >= region.width > 0
        assert region.centroid == pytest.approx(centroids[label][::-1])
        assert region.mean == pytest.approx(heat[inside].mean(dtype=np.float64))


def test_a_slanted_bar_in_pixels_and_millimetres() -> None:
    """The bar is a diagonal of fifty pixels: its width is the diagonal of a pixel."""
    heat = np.ones((60, 60), np.float32)
    mask = np.zeros(heat.shape, bool)
    mask[np.arange(50), np.arange(50)] = True
    (bar,) = find_regions(mask, heat, 0.1)
    assert (bar.length, bar.width) == pytest.approx((50 * 2**0.5, 2**0.5))
    assert (bar.area_mm2, bar.length_mm, bar.width_mm) == pytest.approx((0.5, 5 * 2**0.5, 0.1 * 2**0.5))
    assert bar.centroid == (24.5, 24.5)
    (unknown,) = find_regions(mask, heat)
    assert (unknown.area_mm2, unknown.length_mm, unknown.width_mm) == (None, None, None)
