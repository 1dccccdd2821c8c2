"""Pictures: one scale of colours for all, the truth outlined, the title told."""

import numpy as np
import torch

from lit_ad.callbacks.heatmaps import draw

GREY = np.full((64, 64, 3), 128, np.uint8)


def panel(picture: object, number: int) -> np.ndarray:
    """Panel 0 (image) or 1 (heat) of a picture whose panels are 100 pixels wide."""
    return np.asarray(picture)[22:, number * 104 : number * 104 + 100]


def heat_of(value: float) -> torch.Tensor:
    heat = torch.zeros(64, 64)
    heat[16:32, 16:32] = value
    return heat


def test_equal_values_have_equal_colours_in_every_picture() -> None:
    first = panel(draw(GREY, heat_of(0.5), None, [0.0, 1.0], "a", 100), 1)
    brighter = torch.maximum(heat_of(0.5), heat_of(5.0).roll(20, 1))  # a hotter spot elsewhere changes nothing here
    second = panel(draw(GREY, brighter, None, [0.0, 1.0], "b", 100), 1)
    assert np.array_equal(first[30:45, 30:45], second[30:45, 30:45])
    assert not np.array_equal(first[35, 35], first[90, 90])


def test_truth_is_outlined_on_both_panels_where_it_lies() -> None:
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[16:48, 16:48] = True
    picture = draw(GREY, heat_of(1.0), mask, [0.0, 1.0], "c", 100)
    for number in (0, 1):
        green = (panel(picture, number) == (0, 255, 0)).all(axis=2)
        rows, columns = np.nonzero(green)
        assert abs(rows.min() - 25) <= 1
        assert abs(rows.max() - 75) <= 1
        assert abs(columns.min() - 25) <= 1
        assert not green[35:65, 35:65].any()  # an outline, not a filling


def test_panels_keep_the_images_proportions() -> None:
    picture = draw(GREY, torch.zeros(40, 120), None, [0.0, 1.0], "", 50)
    assert picture.size == (2 * 150 + 4, 50 + 22)


def test_an_image_level_method_shows_its_image() -> None:
    assert draw(GREY, None, None, [float("nan")] * 2, "", 100).size == (100, 122)
