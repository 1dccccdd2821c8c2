import numpy as np
import pytest
from matplotlib.path import Path as Outline

from lit_ad.data.sources.shapes import rasterise, read_boxes, read_polygons


@pytest.mark.parametrize("seed", range(20))
def test_a_polygon_marks_the_pixels_that_matplotlib_finds_inside(seed: int) -> None:
    """The polygons are star-shaped. Some corners lie outside of the image."""
    random = np.random.default_rng(seed)
    angles = np.sort(random.uniform(0, 2 * np.pi, random.integers(3, 9)))
    radii = random.uniform(2, 16, len(angles))[:, None]
    polygon = [14.3, 9.6] + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    centres = np.stack(np.meshgrid(np.arange(30) + 0.5, np.arange(20) + 0.5), axis=-1).reshape(-1, 2)
    expected = Outline(np.vstack([polygon, polygon[:1]])).contains_points(centres).reshape(20, 30)
    assert expected.any() and np.array_equal(rasterise([polygon], (20, 30)), expected)


def test_a_box_of_whole_numbers_holds_exactly_its_pixels() -> None:
    mask = rasterise(read_boxes([[2, 3, 7, 5], [0, 0, 1, 1]]), (8, 10))
    expected = np.zeros((8, 10), bool)
    expected[3:5, 2:7] = expected[0, 0] = True
    assert np.array_equal(mask, expected)
    whole = rasterise(read_boxes("[0, 0, 10, 8]"), (8, 10))
    assert whole.all()
    assert np.array_equal(
        rasterise(read_boxes([2.4, 3, 6.6, 5]), (8, 10))[3], [*[False] * 2, *[True] * 5, *[False] * 3]
    )


def test_two_polygons_with_a_common_edge_share_no_pixel_and_omit_none() -> None:
    left, right = read_polygons([[[0, 0], [9, 0], [0, 6]], [[9, 0], [9, 6], [0, 6]]])
    one, two = rasterise([left], (6, 9)), rasterise([right], (6, 9))
    assert not (one & two).any() and (one | two).all()


def test_one_or_several_shapes_are_read_from_json_text_and_from_lists() -> None:
    assert [len(read_boxes(value)) for value in ("[1, 2, 3, 4]", [[1, 2, 3, 4]], "[[1,2,3,4],[0,0,1,1]]")] == [1, 1, 2]
    triangle = [[0, 0], [3, 0], [0, 3]]
    assert [len(read_polygons(value)) for value in (triangle, [triangle], [triangle, [*triangle, [1, 1]]])] == [1, 1, 2]


@pytest.mark.parametrize(
    "value", ["1 2 3 4", [1, 2, 3], [3, 0, 1, 4], [1, 4, 3, 4], [], "[[1, 2, 3, null]]", {"x": 1}, ["a", 1, 2, 3], None]
)
def test_a_value_that_is_not_a_box_is_refused(value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # json's own, and ours
        read_boxes(value)


@pytest.mark.parametrize(
    "value", ["", [1, 2, 3, 4, 5, 6], [[1, 2], [3, 4]], [[1, 2, 3]] * 3, [], {"x": 1}, [[1, "a"]] * 3, None, 7]
)
def test_a_value_that_is_not_a_polygon_is_refused(value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        read_polygons(value)
