"""Pictures share one scale of colours, outline anomalous pixels, and show small defects."""

import numpy as np
import pytest
import torch

from lit_ad.detector.painter import (
    FOUND,
    GAP,
    TITLE,
    TRUTH,
    draw,
    draw_colour_bar,
    draw_labels,
    find_hottest_window,
    fit_panel,
    magnify_window,
    resize_by_maximum,
)

GREY = np.full((64, 64, 3), 128, np.uint8)


def panel(picture: object, number: int) -> np.ndarray:
    """Panel 0 (image) or 1 (heat) of a picture whose panels are 100 pixels wide."""
    return np.asarray(picture)[22:, number * 104 : number * 104 + 100]


def heat_of(value: float) -> np.ndarray:
    heat = np.zeros((64, 64), np.float32)
    heat[16:32, 16:32] = value
    return heat


def test_equal_values_have_equal_colours_in_every_picture() -> None:
    first = panel(draw(GREY, heat_of(0.5), None, None, (0.0, 1.0), None, "a", 100), 1)
    brighter = np.maximum(heat_of(0.5), np.roll(heat_of(5.0), 20, 1))  # a hotter spot elsewhere changes nothing here
    second = panel(draw(GREY, brighter, None, None, (0.0, 1.0), None, "b", 100), 1)
    assert np.array_equal(first[30:45, 30:45], second[30:45, 30:45])
    assert not np.array_equal(first[35, 35], first[90, 90])


def test_truth_is_outlined_on_both_panels_where_it_lies() -> None:
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    picture = draw(GREY, heat_of(1.0), mask, None, (0.0, 1.0), None, "c", 100)
    for number in (0, 1):
        green = (panel(picture, number) == (0, 255, 0)).all(axis=2)
        rows, columns = np.nonzero(green)
        assert abs(rows.min() - 25) <= 1
        assert abs(rows.max() - 75) <= 1
        assert abs(columns.min() - 25) <= 1
        assert not green[35:65, 35:65].any()  # an outline, not a filling


def places_of_colour(pixels: np.ndarray, colour: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns of the pixels of a colour."""
    rows, columns = np.nonzero((pixels == colour).all(axis=2))
    return rows, columns


@pytest.mark.parametrize("size", [(1024, 1024), (333, 2000), (64, 64), (50, 700)])
def test_thin_defects_keep_their_outline(size: tuple[int, int]) -> None:
    """A scratch of one pixel's width, and a defect of one pixel, are outlined on both panels where they lie."""
    for axis in (0, 1):
        mask = np.zeros(size, bool)
        row, column = size[0] // 3, size[1] // 4
        mask[(row, slice(column, column + 9)) if axis else (slice(row, row + 9), column)] = True
        picture = draw(GREY, np.zeros(size, np.float32), mask, None, (0.0, 1.0), None, "", 100)
        height, width = fit_panel(size, 100)
        for number in (0, 1):
            left = number * (width + 4)
            rows, columns = places_of_colour(np.asarray(picture)[22:, left : left + width], TRUTH)
            assert len(rows) > 0
            assert rows.min() == pytest.approx((row + 0.5) * height / size[0], abs=1.5)
            assert columns.min() == pytest.approx((column + 0.5) * width / size[1], abs=1.5)


def test_anomalous_pixels_have_an_outline_of_another_colour() -> None:
    heat = heat_of(1.0)
    mask = np.zeros((64, 64), bool)
    mask[40:60, 40:60] = True
    picture = draw(GREY, heat, mask, heat > 0.9, (0.0, 2.0), 0.9, "", 100)
    assert TRUTH != FOUND
    for number in (0, 1):
        rows, columns = places_of_colour(panel(picture, number), FOUND)
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((25, 50, 25, 50), abs=1)
        rows, columns = places_of_colour(panel(picture, number), TRUTH)
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((62, 93, 62, 93), abs=1.5)
    legend = np.asarray(picture)[:22]
    assert len(places_of_colour(legend, FOUND)[0]) and len(places_of_colour(legend, TRUTH)[0])
    without = np.asarray(draw(GREY, heat, None, heat > 1, (0.0, 2.0), 1.0, "", 100))  # nothing lies above 1
    assert not len(places_of_colour(without[:, :204], FOUND)[0])


def test_the_colour_bar_has_the_threshold_where_its_colour_is() -> None:
    for threshold, place in ((0.5, 0.75), (1.0, 0.5), (1.9, 0.05), (9.0, 0.0), (-3.0, 1.0)):
        bar = draw_colour_bar(201, 0.0, 2.0, threshold)
        assert bar.shape[0] == 201
        rows, _ = places_of_colour(bar, FOUND)
        assert rows.mean() == pytest.approx(200 * place, abs=1), threshold
    bar = draw_colour_bar(201, 0.0, 2.0, None)
    assert not len(places_of_colour(bar, FOUND)[0])
    for level in (0.0, 0.25, 0.5, 1.0):
        row = bar[round(200 * (1 - level)), 5].astype(float)
        assert 0.65 * row == pytest.approx(colour(level), abs=4)
    assert (bar[:, 18:] < 128).any()  # the numbers
    picture = np.asarray(draw(GREY, heat_of(1.0), None, None, (0.0, 2.0), 1.5, "", 201))
    assert np.array_equal(picture[22:, 2 * (201 + 4) :], draw_colour_bar(201, 0.0, 2.0, 1.5))


@pytest.mark.parametrize(
    ("size", "limit"), [((10, 5000), 4100), ((5000, 10), 200), ((1, 1), 800), ((3, 100_000), 4100)]
)
def test_the_sides_of_a_picture_are_bounded(size: tuple[int, int], limit: int) -> None:
    mask = np.zeros(size, bool)
    mask[-1, -1] = True
    picture = draw(GREY, np.zeros(size, np.float32), mask, None, (0.0, 1.0), 0.5, "name", 320)
    assert picture.size[0] <= limit
    assert 32 <= picture.size[1] - 22 <= 320
    assert len(places_of_colour(np.asarray(picture)[22:], TRUTH)[0]) > 0


def test_small_defects_of_large_images_are_visible() -> None:
    """A third panel shows the map's peak, pixel by pixel; the heat's panel keeps it hot."""
    size = (1000, 1500)
    pixels = np.full((*size, 3), 100, np.uint8)
    pixels[700:704, 1203:1206] = 250
    heat = np.zeros(size, np.float32)
    heat[698:706, 1200:1209] = 1.0
    mask = np.zeros(size, bool)
    mask[700:704, 1203:1206] = True
    picture = np.asarray(draw(pixels, heat, mask, heat > 0.5, (0.0, 1.0), 0.5, "", 100))[22:]
    inset = picture[:, -150:]
    assert find_hottest_window(heat, (100, 150)) == (648, 1125, 748, 1275)
    rows, columns = places_of_colour(inset, TRUTH)
    assert (rows.min(), rows.max()) == (700 - 648, 703 - 648)
    assert (columns.min(), columns.max()) == (1203 - 1125, 1205 - 1125)
    rows, columns = places_of_colour(inset, FOUND)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (50, 57, 75, 83)
    # Where it lies in the others:
    for number in (0, 1):
        rows, columns = places_of_colour(picture[:, number * 154 : number * 154 + 150], (255, 255, 255))
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (64, 73, 112, 126)
    hot = np.asarray(draw(pixels, heat, None, None, (0.0, 1.0), None, "", 100))[22:, 154:304]
    assert (np.abs(hot[70, 120].astype(float) - colour(1.0) - 35) < 12).all()  # no average with the cold around it


def test_the_magnified_window_stays_within_the_image() -> None:
    for place in ((0, 0), (999, 1499), (0, 700), (500, 1499)):
        heat = np.zeros((1000, 1500), np.float32)
        heat[place] = 1
        window = find_hottest_window(heat, (100, 150))
        assert window is not None
        top, left, bottom, right = window
        assert (bottom - top, right - left) == (100, 150)
        assert 0 <= top <= place[0] < bottom <= 1000 and 0 <= left <= place[1] < right <= 1500
    assert find_hottest_window(np.zeros((200, 300), np.float32), (100, 150)) is None
    assert find_hottest_window(np.zeros((201, 300), np.float32), (100, 150)) is not None


def test_a_magnified_window_is_aligned() -> None:
    """For an image at a quarter of its size, the window shows the same as a bilinear enlargement of the whole image."""
    small = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    large = torch.from_numpy(small).permute(2, 0, 1)[None].float()
    whole = torch.nn.functional.interpolate(large, (200, 280), mode="bilinear")[0].permute(1, 2, 0).numpy()
    shown = magnify_window(small, (37, 101, 87, 171), (200, 280), (50, 70))
    assert shown.astype(float) == pytest.approx(whole[37:87, 101:171], abs=6)  # OpenCV's weights have 5 bits


def test_resize_by_maximum_keeps_the_highest_value_of_each_cell() -> None:
    values = np.arange(30).reshape(5, 6)
    assert resize_by_maximum(values, (2, 3)).tolist() == [[7, 9, 11], [25, 27, 29]]
    assert resize_by_maximum(values[:1, :2], (2, 4)).tolist() == [[0, 0, 1, 1]] * 2
    assert resize_by_maximum(values, (5, 6)).tolist() == values.tolist()


def test_panels_keep_the_images_proportions() -> None:
    picture = draw(GREY, np.zeros((40, 120), np.float32), None, None, (0.0, 1.0), None, "", 50)
    bar = draw_colour_bar(50, 0.0, 1.0, None).shape[1]
    assert picture.size == (2 * 150 + 4 + 4 + bar, 50 + 22)


def test_an_image_level_method_shows_its_image() -> None:
    assert draw(GREY, None, None, None, None, None, "", 100).size == (100, 122)


def colour(level: float) -> np.ndarray:
    """Return the colour, over black, of a heat between 0, where colours begin, and 1."""
    import cv2

    value = np.full((1, 1), int(255 * level), np.uint8)
    return 0.65 * cv2.applyColorMap(value, cv2.COLORMAP_INFERNO)[0, 0, ::-1].astype(float)


def test_the_range_ends_at_the_hottest_colour() -> None:
    """A heat at the range's middle has the middle colour: a range nine times as wide would show it as cold."""
    black = np.zeros((64, 64, 3), np.uint8)
    for value, level in ((2.0, 0.0), (5.0, 0.5), (8.0, 1.0), (99.0, 1.0)):
        heat = np.full((64, 64), value, np.float32)
        middle = panel(draw(black, heat, None, None, (2.0, 8.0), None, "", 100), 1)[50, 50].astype(float)
        assert middle == pytest.approx(colour(level), abs=4), value


def test_labels_have_a_colour_each_over_the_grey_image() -> None:
    image = np.full((20, 40, 3), 100, np.uint8)
    labels = np.zeros((20, 40), np.int64)
    labels[:, 20:] = 1
    picture = np.asarray(draw_labels(image, labels, 2, "", 20))[TITLE:]
    assert (picture[:, :40] == 100).all()
    first, second = picture[5, 40 + GAP + 5], picture[5, 40 + GAP + 35]
    assert np.abs(first - np.array([170, 55, 55])).max() <= 2  # 0.45 of red, and of cyan: Pillow's hue has 256 steps
    assert np.abs(second - np.array([55, 170, 170])).max() <= 2
