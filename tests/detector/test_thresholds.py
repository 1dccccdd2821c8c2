"""Thresholds come from held-out scores, with the number of scores above them."""

import numpy as np
import pytest

from lit_ad.detector.thresholds import (
    find_conformal_threshold,
    find_operating_point,
    refuse_not_finite,
    select_category,
)
from lit_ad.errors import NotFiniteError

HELD = np.arange(19.0)


def test_the_figures_of_a_threshold() -> None:
    point = find_operating_point(HELD, 0.1)
    assert (point.threshold, point.above, point.held_out, point.by_hand) == (17, 1, 19, False)
    assert point.p_value == 2 / 20 and point.rate == 1 / 19
    assert find_operating_point(HELD, 0.1, 3.5).above == 15 and find_operating_point(HELD, 0.1, 3.5).by_hand
    assert find_conformal_threshold(HELD, 0.01) == 18  # the lowest rate that they allow
    assert point.to_dict()["rate"] == point.rate


def test_an_unknown_category_gets_the_scores_of_all() -> None:
    values = {"a": np.array([3.0]), "b": np.array([1.0, 2.0])}
    assert select_category(values, "a").tolist() == [3]
    assert select_category(values, None).tolist() == select_category(values, "c").tolist() == [1, 2, 3]
    assert len(select_category({}, None)) == 0


def test_numbers_that_are_not_finite_are_refused() -> None:
    refuse_not_finite("a.png", 1.0, None, HELD)
    with pytest.raises(NotFiniteError, match=r"^a\.png: "):
        refuse_not_finite("a.png", 1.0, np.array([np.nan]))
