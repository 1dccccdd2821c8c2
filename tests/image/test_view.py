"""Images become network input, and maps return to their place in the image, as torch and OpenCV compute it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import avg_pool2d, interpolate

from lit_ad.errors import UserError
from lit_ad.image.resize import resize_bilinear
from lit_ad.image.tiling import Grid
from lit_ad.image.view import View, original_map, pad_by_reflection, pad_to_content, visible_box


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_stretch_gives_the_size_asked_for() -> None:
    image, box = View(64)(picture(30, 50))
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8 and box == (0, 0, 64, 64)
    image, box = View((32, 80))(picture(30, 50))
    assert image.shape == (32, 80, 3) and box == (0, 0, 32, 80)


def test_an_image_may_keep_its_own_size() -> None:
    original = picture(30, 50)
    image, box = View(None)(original)
    assert np.array_equal(image, original) and box == (0, 0, 30, 50)


def test_pad_keeps_the_aspect_ratio_and_centres() -> None:
    image, box = View(64, fit="pad")(picture(100, 50))
    assert image.shape == (64, 64, 3) and box == (0, 16, 64, 48)
    content, whole = View((64, 32))(picture(100, 50))
    assert np.array_equal(image[:, 16:48], content) and whole == (0, 0, 64, 32)
    assert np.array_equal(image[:, 15], image[:, 17])  # reflection without the edge
    assert np.array_equal(image[:, 48], image[:, 46])


def test_pad_of_a_thin_image_reflects_more_than_once() -> None:
    image, box = View(64, fit="pad")(picture(200, 26))
    assert image.shape == (64, 64, 3) and box[3] - box[1] == 8


@pytest.mark.parametrize(
    ("view", "size", "message"),
    [
        (View(64), (7, 90), r"^the image has 7x90 pixels .* too small to judge: each side needs 8 or more$"),
        (View(None), (5000, 2), r"^the image has 5000x2 pixels .* too small to judge"),
        (View(64, fit="pad"), (200, 23), r"200x23 pixels .* too thin .* view.fit pad makes 64x7 of it, .*; cut"),
        (View(96, fit="pad", tile=32), (1000, 60), r"too thin .* view.fit pad makes 96x6 of it"),
    ],
)
def test_images_that_are_too_small_or_thin_are_refused(view: View, size: tuple[int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        view(picture(*size))
    view(picture(8, 60))


def test_sides_are_padded_to_a_multiple() -> None:
    image, box = View(256, multiple=14)(picture(30, 50))
    assert image.shape == (266, 266, 3) and box == (5, 5, 261, 261)
    image, box = View(None, multiple=16)(picture(30, 50))
    assert image.shape == (32, 64, 3) and box == (1, 7, 31, 57)
    assert View(256, multiple=16)(picture(30, 50))[1] == (0, 0, 256, 256)


def test_a_crop_shows_the_middle() -> None:
    """The network sees the middle of the resized image. The map returns there; elsewhere it has its lowest value."""
    original = picture(60, 40)
    resized, _ = View((48, 32))(original)
    image, box = View((48, 32), crop=24)(original)
    assert np.array_equal(image, resized[12:36, 4:28]) and box == (-12, -4, 36, 28)
    assert visible_box(box, (24, 24)) == (0, 0, 24, 24)
    values = np.random.default_rng(0).uniform(1, 2, (24, 24)).astype(np.float32)
    whole = original_map(values, (24, 24), box, (48, 32))
    assert np.array_equal(whole[12:36, 4:28], values)
    whole[12:36, 4:28] = values.min()
    assert (whole == values.min()).all()
    assert np.array_equal(pad_to_content(image, box, 0)[12:36, 4:28], image)
    image, box = View(48, fit="pad", crop=24)(original)  # content of 48 x 32, of which 24 x 24 are seen
    assert np.array_equal(image, View(48, fit="pad")(original)[0][12:36, 12:36]) and box == (-12, -4, 36, 28)
    image, box = View(48, fit="pad", crop=40)(original)  # all of its width, with padding on both sides
    assert np.array_equal(image, View(48, fit="pad")(original)[0][4:44, 4:44]) and box == (-4, 4, 44, 36)
    assert View(256, crop=224).of_multiple(14).crop == 224


@pytest.mark.parametrize("view", [{"image_size": None}, {"image_size": (64, 16)}, {"image_size": 64, "tile": 8}])
def test_impossible_crops_are_refused(view: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"view.crop is 24, but it must lie inside view.image_size"):
        View(**view, crop=24)
    with pytest.raises(UserError, match=r"view.crop is 24, but the model needs a multiple of 14: try 14"):
        View(64, crop=24).of_multiple(14)


def test_a_view_takes_the_multiple_of_a_model() -> None:
    assert View(256).of_multiple(14).multiple == 14
    assert View(256, multiple=28).of_multiple(14).multiple == 28  # what is asked for stays
    assert View(None, tile=32).of_multiple(16) == View(None, multiple=16, tile=32)
    with pytest.raises(UserError, match=r"view.tile is 30, but the model needs a multiple of 16: try 32"):
        View(None, tile=30).of_multiple(16)
    with pytest.raises(UserError, match=r"view.tile is 3, but the model needs a multiple of 16: try 16"):
        View(None, tile=3).of_multiple(16)


def test_with_tiles_the_tile_is_the_multiple() -> None:
    original = picture(30, 50)
    image, box = View(None, multiple=16, tile=32)(original)
    assert np.array_equal(image, original) and box == (0, 0, 30, 50)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_shrinking_is_antialiased(interpolation: Literal["bilinear", "bicubic"]) -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    image, _ = View(32, interpolation=interpolation)(stripes)
    assert np.abs(image[4:-4, 4:-4].astype(int) - 127).max() <= 3


def test_content_is_known_before_the_image_is_read() -> None:
    for view in (View(64), View((40, 70), fit="pad"), View(None), View(64, fit="pad", multiple=14)):
        for size in ((30, 50), (200, 40), (64, 64), (8, 8)):
            _, (top, left, bottom, right) = view(picture(*size))
            assert view.content(size) == (bottom - top, right - left)


def test_tiles_share_a_quarter_unless_told_otherwise() -> None:
    assert View(64).grid((64, 64)) is None
    for view, overlap in ((View(None, tile=32), 8), (View(None, tile=32, overlap=0), 0)):
        grid = view.grid((100, 64))
        assert isinstance(grid, Grid) and (grid.size, grid.tile, grid.overlap) == ((100, 64), 32, overlap)


@pytest.mark.parametrize("size", [0, (0, 5), (1, 2, 3), ()])
def test_impossible_sizes_are_refused(size: Any) -> None:
    with pytest.raises(UserError, match="image_size is"):
        View(size)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"multiple": 0}, "view.multiple is 0, but it must be 1 or more"),
        ({"tile": 0}, "view.tile is 0"),
        ({"tile": 32, "tile_batch": 0}, "view.tile_batch is 0"),
        ({"tile": 32, "overlap": 20}, "view.overlap must lie between 0 and half the tile of 32 pixels, not 20"),
        ({"tile": 32, "overlap": -1}, "view.overlap must lie between"),
        ({"mm_per_pixel": 0}, "view.mm_per_pixel is 0, but it must be above 0"),
    ],
)
def test_impossible_arguments_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        View(256, **wrong)


@pytest.mark.parametrize("corner", [(0, 0), (1, 2), (9, 8)])
def test_padding_matches_opencvs_reflection(corner: tuple[int, int]) -> None:
    original, (top, left) = picture(4, 5), corner
    image = pad_by_reflection(original, (14, 15), top, left)
    expected = cv2.copyMakeBorder(original, top, 10 - top, left, 10 - left, cv2.BORDER_REFLECT_101)
    assert np.array_equal(image, expected)


def test_an_image_that_fits_is_not_padded() -> None:
    original = picture(4, 5)
    assert pad_by_reflection(original, (4, 5)) is original


@pytest.mark.parametrize(
    "view",
    [View(), View((32, 48), "pad", "bicubic", multiple=14), View(None, tile=64, overlap=0, tile_batch=3)],
)
def test_a_view_survives_json(view: View) -> None:
    again = View.from_dict(json.loads(json.dumps(view.to_dict())))
    assert again == view and hash(again) == hash(view)
    assert View.from_dict(view.to_dict()) == view


# Maps.

SIDE = st.integers(1, 40)
SIZE = st.tuples(SIDE, SIDE)


def random_map(size: tuple[int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, size).astype(np.float32)


def resize_by_torch(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    tensor = torch.from_numpy(values)[None, None]
    return interpolate(tensor, size=size, mode="bilinear", align_corners=False)[0, 0].numpy()


@settings(deadline=None)
@given(SIZE, SIZE, st.integers(0, 9))
def test_the_bilinear_resize_matches_torch(size: tuple[int, int], to: tuple[int, int], seed: int) -> None:
    values = random_map(size, seed)
    before = values.copy()
    resized = resize_bilinear(values, to)
    assert resized.dtype == np.float32 and resized.shape == to
    np.testing.assert_allclose(resized, resize_by_torch(values, to), atol=1e-4)
    assert np.array_equal(values, before)


@settings(deadline=None)
@given(SIZE, SIZE, SIZE, st.integers(0, 9), st.data())
def test_original_map_matches_torch_and_a_cut(
    size: tuple[int, int], canvas: tuple[int, int], to: tuple[int, int], seed: int, data: st.DataObject
) -> None:
    """The map has any resolution, the input is padded, and the result has the image's own size."""
    top, left = (data.draw(st.integers(0, side - 1)) for side in canvas)
    bottom, right = data.draw(st.integers(top + 1, canvas[0])), data.draw(st.integers(left + 1, canvas[1]))
    values = random_map(size, seed)
    before = values.copy()
    found = original_map(values, canvas, (top, left, bottom, right), to)
    assert found.dtype == np.float32 and found.shape == to
    expected = resize_by_torch(resize_by_torch(values, canvas)[top:bottom, left:right].copy(), to)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert np.array_equal(values, before)


def test_padding_does_not_change_the_peak() -> None:
    """One image is as large as the input, the other has padding below: the same map is resized in the same steps."""
    values = random_map((8, 8), 0)
    values[3, 4] = 2
    whole = original_map(values, (64, 64), (0, 0, 64, 64), (100, 70))
    padded = original_map(np.pad(values, ((0, 2), (0, 0)), mode="edge"), (80, 64), (0, 0, 64, 64), (100, 70))
    np.testing.assert_allclose(padded, whole, rtol=1e-6)
    assert whole.max() < resize_bilinear(values, (100, 70)).max()  # in one step, the same defect would be hotter


VIEWS = {
    "stretch": View((96, 64)),
    "pad": View((64, 96), fit="pad"),
    "multiple": View((90, 70), multiple=16),
    "pad and multiple": View(90, fit="pad", multiple=16),
    "own size and multiple": View(None, multiple=16),
    "bicubic": View(64, interpolation="bicubic"),
}
IMAGE = st.tuples(st.integers(64, 128), st.integers(64, 128))


def planted(view: View, size: tuple[int, int], point: tuple[int, int], stride: int) -> tuple[np.ndarray, np.ndarray]:
    """A spot at a point of an image, as the network sees it at a stride -> the map at the image's size, and how many
    of the image's pixels one of the network's is."""
    scale = np.divide(size, view.content(size))
    distances = [(np.arange(size[i]) - point[i]) / max(2 * scale[i], 1) for i in (0, 1)]
    spot = np.exp(-0.5 * (distances[0][:, None] ** 2 + distances[1] ** 2))
    image = np.repeat(np.rint(255 * spot).astype(np.uint8)[..., None], 3, axis=2)
    pixels, box = view(image)
    seen = avg_pool2d(torch.from_numpy(pixels[None, None, :, :, 0].astype(np.float32)), stride)[0, 0].numpy()
    return original_map(seen, pixels.shape[:2], box, size), scale


@pytest.mark.parametrize("name", VIEWS)
@settings(deadline=None, max_examples=30)
@given(IMAGE, st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_point_comes_back_where_it_is(name: str, size: tuple[int, int], at: tuple[float, float]) -> None:
    """The place is right within one pixel of the network's scale, also at borders."""
    point = (round(at[0] * (size[0] - 1)), round(at[1] * (size[1] - 1)))
    anomaly_map, scale = planted(VIEWS[name], size, point, 1)
    found = np.unravel_index(anomaly_map.argmax(), size)
    assert (np.abs(np.subtract(found, point)) <= np.maximum(scale, 1)).all(), (found, point)


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("stride", [1, 2])
@settings(deadline=None, max_examples=30)
@given(IMAGE, st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_no_map_is_shifted(name: str, stride: int, size: tuple[int, int], at: tuple[float, float]) -> None:
    """The middle of a spot inside the image is right within a tenth of a pixel of the network's scale."""
    margin = [round(12 * s) for s in np.divide(size, VIEWS[name].content(size))]
    point = tuple(m + round(a * (side - 1 - 2 * m)) for m, a, side in zip(margin, at, size, strict=True))
    anomaly_map, scale = planted(VIEWS[name], size, point, stride)
    rows, columns = anomaly_map.sum(axis=1), anomaly_map.sum(axis=0)
    middle = [np.average(np.arange(len(weight)), weights=weight) for weight in (rows, columns)]
    assert (np.abs(np.subtract(middle, point)) < 0.1 * scale).all(), (middle, point)


@pytest.mark.parametrize(
    "module",
    [
        "image.view",
        "image.tiling",
        "image.pixels",
        "detector.decision",
        "detector.scoring",
        "detector.painter",
        "detector.detector",
    ],
)
def test_neither_torch_nor_opencv_is_needed(module: str) -> None:
    """A detector on another runtime has only NumPy and Pillow."""
    script = f"import sys, lit_ad.{module}; print(sorted({{'torch', 'cv2', 'lightning', 'timm'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def test_an_automatic_window_has_a_margin_on_both_sides(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        values = np.linspace(1000 + 100 * i, 1800 + 100 * i, 10_000).round().astype(np.uint16).reshape(100, 100)
        values[0, 0] = 65535  # one hot pixel
        Image.fromarray(values).save(path)
    assert View(8, window="auto").resolved(paths).window == pytest.approx((750, 2250), abs=5)
    part = View(8, roi=(10, 0, 20, 100), window="auto").resolved(paths).window  # what does not count has no say
    assert part == pytest.approx((1080 - 70, 1360 + 70), abs=5)
    Image.fromarray(np.full((4, 4), 7, np.uint16)).save(paths[0])
    with pytest.raises(UserError, match=r"cannot be auto, since all pixels of .*0\.png"):
        View(8, window="auto").resolved(paths[:1])
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(paths[0])
    with pytest.raises(UserError, match=r"0\.png has values of 8 bits"):
        View(8, window="auto").resolved(paths)
