"""Each step from marked pixels to outlines gives what scipy gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from lit_ad.detector.clean_up import CleanUp, close_gaps, drop_halos, fill_holes, max_pool

SHAPES = array_shapes(min_dims=2, max_dims=2, max_side=14)
MASKS = arrays(bool, SHAPES)
MAPS = arrays(np.float32, SHAPES, elements=st.integers(0, 9).map(float))
EVERY_NEIGHBOUR = np.ones((3, 3))


def clean_up_by_scipy(heat: np.ndarray, marked: np.ndarray, clean_up: CleanUp, inside: np.ndarray) -> np.ndarray:
    """Return the cleaned mask by scipy, with padding around the map."""
    grown = ndimage.binary_propagation(marked, EVERY_NEIGHBOUR, mask=((heat > clean_up.low) | marked) & inside)
    heights = np.where(grown, heat - clean_up.base, 0)
    if clean_up.reach:
        near = ndimage.maximum_filter(heights, 2 * clean_up.reach + 1, mode="constant")
        grown &= heights > near / 2
    room, side = clean_up.closing + 1, 2 * clean_up.closing + 1
    closed = ndimage.binary_closing(np.pad(grown, room), np.ones((side, side)))[room:-room, room:-room]
    labels, _ = ndimage.label(~closed)
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    sizes = np.bincount(labels.ravel())
    small = (sizes <= clean_up.holes) & ~np.isin(np.arange(len(sizes)), [0, *border])
    labels, _ = ndimage.label((closed | small[labels]) & inside, EVERY_NEIGHBOUR)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= clean_up.area)[labels] & (labels > 0))


@given(
    MAPS, st.integers(0, 8), st.integers(0, 3), st.integers(0, 3), st.integers(0, 9), st.integers(1, 9), st.booleans()
)
@settings(deadline=None, max_examples=200)
def test_all_steps_together_match_scipy(
    heat: np.ndarray, low: int, reach: int, closing: int, holes: int, area: int, with_region: bool
) -> None:
    inside = np.random.default_rng(0).random(heat.shape) > 0.2 if with_region else np.ones(heat.shape, bool)
    marked, clean_up = (heat > 8) & inside, CleanUp(low, low / 2, reach, closing, holes, area)
    expected = clean_up_by_scipy(heat, marked, clean_up, inside)
    assert np.array_equal(clean_up(heat, marked, inside), expected)
    if not with_region:
        assert np.array_equal(clean_up(heat, marked), expected)


@given(MAPS, st.integers(0, 5))
@settings(deadline=None)
def test_max_pool_matches_scipy(heat: np.ndarray, reach: int) -> None:
    expected = ndimage.maximum_filter(heat, 2 * reach + 1, mode="constant")
    assert np.array_equal(max_pool(heat, reach), expected)


def test_a_blurred_edge_stays_in_its_place() -> None:
    defect = np.zeros((60, 60), bool)
    defect[20:40, 15:45] = True
    heat = 0.2 + ndimage.gaussian_filter(defect.astype(np.float32), 4)
    grown = heat > 0.21
    assert grown.sum() > 2 * defect.sum()
    sharp = drop_halos(heat, grown, 0.2, 10)
    assert (sharp != defect).sum() < 0.1 * defect.sum()  # the corners
    weak = np.where(np.arange(60) > 50, 0.3, heat).astype(np.float32)  # less high, but far away
    assert drop_halos(weak, weak > 0.21, 0.2, 5)[:, 57:].all()


@given(MASKS, st.integers(0, 4))
@settings(deadline=None)
def test_closing_only_adds_pixels_and_is_idempotent(mask: np.ndarray, radius: int) -> None:
    closed = close_gaps(mask, radius)
    assert (closed >= mask).all() and np.array_equal(close_gaps(closed, radius), closed)


def test_gaps_up_to_twice_the_radius_are_closed() -> None:
    mask = np.ones((3, 20), bool)
    for gap in range(1, 8):
        split = mask.copy()
        split[:, 5 : 5 + gap] = False
        assert close_gaps(split, 2).all() == (gap <= 4)


@pytest.mark.parametrize(("most", "filled"), [(3, 0), (4, 4), (9, 13)])
def test_holes_are_filled_up_to_a_size(most: int, filled: int) -> None:
    mask = np.ones((12, 12), bool)
    mask[2:4, 2:4] = mask[6:9, 6:9] = mask[0, 5:7] = False  # the last one is no hole
    assert fill_holes(mask, most).sum() - mask.sum() == filled


def test_an_empty_mask_stays_empty() -> None:
    heat = np.ones((4, 5), np.float32)
    assert not CleanUp(0.0, 0.0, 2, 3, 9, 1)(heat, heat > 1).any()
