"""simplejpeg gives exactly Pillow's pixels; other files are left to Pillow."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from lit_ad.errors import UserError
from lit_ad.image import jpeg
from lit_ad.image.conversion import convert_to_rgb
from lit_ad.image.jpeg import decode_jpeg, find_decoder
from lit_ad.image.pixels import Pixels, open_image, read_image

pytest.importorskip("simplejpeg")


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Return smooth colours with noise, of a size (width, height)."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize(size)
    noisy = np.asarray(coarse, float) + generator.normal(0, 12, (size[1], size[0], 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("quality", [30, 75, 95, 100])
def test_pixels_equal_those_of_pillow(quality: int, progressive: bool, subsampling: int) -> None:
    assert find_decoder() is not None, "the two do not agree here: nothing below is tested"
    for seed, size in enumerate(((64, 64), (37, 53), (101, 9), (8, 8))):
        content = encode(picture(size, seed), quality=quality, progressive=progressive, subsampling=subsampling)
        for image in (Image.open(io.BytesIO(content)), Image.open(io.BytesIO(content)).convert("L")):
            content = content if image.mode == "RGB" else encode(image, quality=quality)
            decoded = decode_jpeg(Image.open(io.BytesIO(content)))
            assert decoded is not None and np.array_equal(
                decoded, np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
            )


@pytest.mark.parametrize("orientation", range(10))
def test_an_image_is_turned_as_pillow_turns_it(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "a.jpg").write_bytes(encode(picture((40, 24)), exif=exif))
    with Image.open(tmp_path / "a.jpg") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(read_image(tmp_path / "a.jpg"), expected)
    assert read_image(tmp_path / "a.jpg").flags.c_contiguous
    assert np.array_equal(read_image(Path("x"), content=(tmp_path / "a.jpg").read_bytes()), expected)


@pytest.mark.parametrize("kind", ["printed", "no JPEG", "cut"])
def test_other_files_are_left_to_pillow(kind: str, tmp_path: Path) -> None:
    file, image = tmp_path / "a.jpg", picture((40, 24))
    if kind == "no JPEG":
        image.save(file, "PNG")
    else:
        content = encode(image.convert("CMYK") if kind == "printed" else image)
        file.write_bytes(content[:-200] if kind == "cut" else content)
    with Image.open(file) as opened:
        assert decode_jpeg(opened) is None
    if kind == "cut":
        with pytest.raises(UserError, match=r"cannot read .*a\.jpg: image file is truncated"):
            read_image(file)
    else:
        assert np.array_equal(read_image(file), convert_to_rgb(open_image(file), "a"))


def check_that_pillow_decodes(file: Path, expected: Pixels) -> None:
    """Choose the decoder again, as a new process does, and compare the pixels (H, W, 3) of a file."""
    jpeg.find_decoder.cache_clear()
    try:
        assert find_decoder() is None
        assert np.array_equal(read_image(file), expected)
    finally:
        jpeg.find_decoder.cache_clear()


def test_pillow_decodes_if_simplejpeg_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encode(picture((40, 24))))
    expected = read_image(tmp_path / "a.jpg")
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    check_that_pillow_decodes(tmp_path / "a.jpg", expected)


def test_simplejpeg_is_not_used_if_pillow_gives_other_pixels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This is so if Pillow was built with another library."""
    import simplejpeg

    (tmp_path / "a.jpg").write_bytes(encode(picture((40, 24))))
    expected, decode = read_image(tmp_path / "a.jpg"), simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *arguments: decode(*arguments) ^ 1)
    check_that_pillow_decodes(tmp_path / "a.jpg", expected)
