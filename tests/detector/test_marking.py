"""A marking marks pixels by threshold, region size and clean-up."""

import json
import warnings

import numpy as np
import pytest

from lit_ad.detector.clean_up import CleanUp
from lit_ad.detector.marking import Marking


def heat(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Return a map that is 1 in boxes and 0 elsewhere."""
    values = np.zeros((20, 30), np.float32)
    for top, left, bottom, right in boxes:
        values[top:bottom, left:right] = 1
    return values


def test_pixels_above_the_threshold_are_marked_if_they_count() -> None:
    values = heat((2, 2, 5, 5), (10, 10, 12, 12))
    assert np.array_equal(Marking(0.5)(values), values == 1) and not Marking(1.0)(values).any()
    inside = np.arange(30) < 11
    assert np.array_equal(Marking(0.5)(values, np.tile(inside, (20, 1))), (values == 1) & inside)


def test_regions_of_fewer_pixels_are_not_marked() -> None:
    values = heat((2, 2, 5, 5), (10, 10, 12, 12))
    assert [int(Marking(0.5, area)(values).sum()) for area in (4, 5, 9, 10)] == [13, 9, 9, 0]
    assert not Marking(0.5, 4)(values, heat((0, 0, 2, 30)) == 1).any()


def test_an_area_beyond_the_image_is_warned_of() -> None:
    values = heat((2, 2, 5, 5))
    with pytest.warns(UserWarning, match=r"decision.area is 601, more than all pixels of an image of 20x30: none"):
        assert not Marking(0.5, 601)(values).any()
    with pytest.warns(UserWarning, match=r"decision.clean_up.area is 601, more than .*: none of its regions is marked"):
        assert not Marking(0.5, 1, CleanUp(0.3, area=601))(values).any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not Marking(0.5, 600, CleanUp(0.3, area=600))(values).any()


def test_a_single_pixel_is_marked_unless_an_area_is_given() -> None:
    values = heat((2, 2, 3, 3), (10, 10, 11, 12))
    assert [int(marking(values).sum()) for marking in (Marking(0.5), Marking(0.5, 2))] == [3, 2]


def test_marked_pixels_are_cleaned_up() -> None:
    values = heat((2, 2, 5, 5), (10, 10, 12, 12))
    values[4, 5:9] = values[11, 12:15] = 0.4
    cleaned = Marking(0.5, 5, CleanUp(0.3))(values)
    assert cleaned.sum() == 13 and not cleaned[10:].any()  # the second one has 4 pixels above the threshold
    assert Marking(0.5, 5, CleanUp(0.3))(values, heat((0, 0, 20, 7)) == 1).sum() == 11


def test_to_json_and_back() -> None:
    for marking in (Marking(0.25, 7), Marking(0.25, 7, CleanUp(0.1, 0.05, 4, 2, 30, 40))):
        assert Marking.from_dict(json.loads(json.dumps(marking.to_dict()))) == marking
