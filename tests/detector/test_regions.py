"""Regions, against OpenCV."""

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_ad.detector.regions import regions


@given(st.integers(0, 2**32), st.floats(0.02, 0.7))
@settings(deadline=None, max_examples=60)
def test_regions_are_opencvs(seed: int, share: float) -> None:
    generator = np.random.default_rng(seed)
    mask = generator.random((int(generator.integers(1, 24)), int(generator.integers(1, 24)))) < share
    heat = generator.random(mask.shape).astype(np.float32)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    expected = []
    for label in range(1, count):
        left, top, width, height, area = (int(value) for value in stats[label])
        expected.append((-float(heat[labels == label].max()), (top, left, top + height, left + width), area))
    found = regions(mask, heat)
    assert [(-one.peak, one.box, one.area) for one in found] == sorted(expected)
