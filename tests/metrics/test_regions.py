"""Sizes of regions equal SciPy's."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import label

from lit_ad.metrics.regions import measure_region_sizes


@settings(deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_sizes_equal_those_of_scipys_regions(mask: np.ndarray) -> None:
    labels, _ = label(mask, np.ones((3, 3)))
    assert np.array_equal(measure_region_sizes(mask), np.bincount(labels.ravel())[labels[mask]])
