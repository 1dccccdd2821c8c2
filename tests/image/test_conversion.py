"""Images of every bit depth and colour mode become uint8 RGB."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lit_ad.errors import UserError
from lit_ad.image.pixels import read_image, to_rgb

GENERATOR = np.random.default_rng(0)
RGB = GENERATOR.integers(0, 256, (20, 30, 3)).astype(np.uint8)
GREY = GENERATOR.integers(0, 256, (20, 30)).astype(np.uint8)
GREY3 = np.repeat(GREY[..., None], 3, axis=2)
ALPHA = GENERATOR.integers(0, 256, (20, 30)).astype(np.uint8)


def save_and_read(image: Image.Image, path: Path, **kwargs: Any) -> np.ndarray:
    image.save(path, **kwargs)
    return read_image(path)


@pytest.mark.parametrize("extension", ["png", "tiff"])
def test_16_bit_grey(tmp_path: Path, extension: str) -> None:
    wide = Image.fromarray(GREY.astype(np.uint16) * 257)
    assert np.array_equal(save_and_read(wide, tmp_path / f"x.{extension}"), GREY3)
    ends = Image.fromarray(np.array([[0, 65535, 128, 129, 65407]], np.uint16))
    assert save_and_read(ends, tmp_path / f"y.{extension}")[0, :, 0].tolist() == [0, 255, 0, 1, 255]


def test_32_bit_and_float(tmp_path: Path) -> None:
    assert np.array_equal(save_and_read(Image.fromarray(GREY.astype(np.int32) * 257), tmp_path / "i.tiff"), GREY3)
    assert np.array_equal(save_and_read(Image.fromarray(GREY.astype(np.float32) / 255), tmp_path / "f.tiff"), GREY3)
    for values in (GREY.astype(np.float32) * 2, np.full((4, 4), np.nan, np.float32), GREY.astype(np.int32) * 2000):
        with pytest.raises(UserError, match=r"z.tiff has values from"):
            save_and_read(Image.fromarray(values), tmp_path / "z.tiff")


@pytest.mark.filterwarnings("error")
def test_palette_and_transparency(tmp_path: Path) -> None:
    palette = Image.fromarray(RGB).quantize(64)
    colours = np.asarray(palette.convert("RGB"))
    assert np.array_equal(save_and_read(palette, tmp_path / "p.png"), colours)
    assert np.array_equal(save_and_read(palette, tmp_path / "t.png", transparency=3), colours)
    assert np.array_equal(save_and_read(palette, tmp_path / "b.png", transparency=bytes(range(64))), colours)
    assert np.array_equal(save_and_read(Image.fromarray(np.dstack([RGB, ALPHA])), tmp_path / "a.png"), RGB)
    assert np.array_equal(save_and_read(Image.fromarray(np.dstack([GREY, ALPHA]), "LA"), tmp_path / "la.png"), GREY3)
    assert np.array_equal(save_and_read(Image.fromarray(RGB), tmp_path / "k.png", transparency=(1, 2, 3)), RGB)


def test_one_bit(tmp_path: Path) -> None:
    bits = GREY > 127
    assert np.array_equal(save_and_read(Image.fromarray(bits), tmp_path / "x.png")[..., 1], bits * 255)


def test_cmyk_jpeg(tmp_path: Path) -> None:
    flat = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    image = save_and_read(Image.fromarray(flat).convert("CMYK"), tmp_path / "x.jpg", quality=100)
    assert np.abs(image.astype(int) - flat).max() <= 3


def test_a_mode_that_has_no_rgb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(image: Image.Image, mode: str) -> None:
        raise ValueError("conversion not supported")  # as Pillow does, of modes that differ by its version

    Image.new("LAB", (4, 4)).save(tmp_path / "x.tiff")
    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(UserError, match=r"x.tiff has pixels of kind LAB"):
        read_image(tmp_path / "x.tiff")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((2, 20, 30, 3), np.uint8), r"not an array of shape \(2, 20, 30, 3\)"),
        (np.zeros((3, 20, 30), np.uint8), r"not an array of shape \(3, 20, 30\)"),
        (np.zeros(7, np.uint8), r"not an array of shape \(7,\)"),
        ([[1, 2], [3, 4]], "an image is a path, a Pillow image or an array .*, not list"),
        (None, "not NoneType"),
        (np.full((4, 4), 1.5), "an array of float64 with values from 1.5 to 1.5 is no image"),
        (np.full((4, 4), -0.5), "is no image: give uint8"),
        (np.full((4, 4), np.nan), "is no image: give uint8"),
        (np.full((4, 4), 100, np.int64), "an array of int64 with values from 100 to 100 is no image"),
    ],
)
def test_values_that_are_no_image_are_refused(wrong: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        to_rgb(wrong)


def test_a_window_makes_12_bits_visible(tmp_path: Path) -> None:
    """Without a window such images are nearly black: 4095 of 65535."""
    values = np.array([[0, 2048, 4095, 9000]], np.uint16)
    for name in ("x.png", "x.tiff"):
        Image.fromarray(values).save(tmp_path / name)
        assert read_image(tmp_path / name)[0, :, 0].tolist() == [0, 8, 16, 35]
        assert read_image(tmp_path / name, (0, 4095))[0, :, 0].tolist() == [0, 128, 255, 255]
    for same in (
        values,
        Image.fromarray(values),
        values.astype(np.int32),
        values.astype(np.float32),
        values[..., None],
    ):
        assert np.array_equal(to_rgb(same, (0, 4095)), read_image(tmp_path / "x.png", (0, 4095)))
    assert to_rgb(values, (2048, 4095))[0, :, 0].tolist() == [0, 0, 255, 255]
    wide = GENERATOR.integers(0, 65536, (20, 30)).astype(np.uint16)
    assert np.array_equal(to_rgb(wide, (0, 65535)), to_rgb(wide))
    colours = np.repeat(values[..., None], 3, axis=2)
    assert np.array_equal(to_rgb(colours, (0, 4095)), to_rgb(values, (0, 4095)))


def test_a_window_is_not_for_8_bits(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "x.png")
    for image in (tmp_path / "x.png", Image.fromarray(GREY)):
        with pytest.raises(UserError, match=r"has values of 8 bits, and view.window is for grey images of more bits"):
            to_rgb(image, (0, 4095))
    for array in (RGB, np.full((4, 4), np.nan)):
        with pytest.raises(UserError, match=r"the array has .* and view.window is for finite numbers"):
            to_rgb(array, (0, 4095))
