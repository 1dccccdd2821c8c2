"""simplejpeg gives Pillow's pixels, or Pillow decodes."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from lit_ad.errors import UserError
from lit_ad.image import jpeg
from lit_ad.image.jpeg import decode_jpeg, find_decoder
from lit_ad.image.pixels import open_image, read_image, rgb

pytest.importorskip("simplejpeg")


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Smooth colours with noise, of (width, height)."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize(size)
    noisy = np.asarray(coarse, float) + generator.normal(0, 12, (size[1], size[0], 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("quality", [30, 75, 95, 100])
def test_the_pixels_are_pillows(quality: int, progressive: bool, subsampling: int) -> None:
    assert find_decoder() is not None, "the two do not agree here: nothing below is tested"
    for seed, size in enumerate(((64, 64), (37, 53), (101, 9), (8, 8))):
        content = encoded(picture(size, seed), quality=quality, progressive=progressive, subsampling=subsampling)
        for image in (Image.open(io.BytesIO(content)), Image.open(io.BytesIO(content)).convert("L")):
            content = content if image.mode == "RGB" else encoded(image, quality=quality)
            decoded = decode_jpeg(Image.open(io.BytesIO(content)))
            assert decoded is not None and np.array_equal(
                decoded, np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
            )


@pytest.mark.parametrize("orientation", range(10))
def test_an_image_is_turned_as_pillow_turns_it(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "a.jpg").write_bytes(encoded(picture((40, 24)), exif=exif))
    with Image.open(tmp_path / "a.jpg") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(read_image(tmp_path / "a.jpg"), expected)
    assert read_image(tmp_path / "a.jpg").flags.c_contiguous
    assert np.array_equal(read_image(Path("x"), content=(tmp_path / "a.jpg").read_bytes()), expected)


@pytest.mark.parametrize("kind", ["printed", "no JPEG", "cut"])
def test_what_pillow_decodes(kind: str, tmp_path: Path) -> None:
    file, image = tmp_path / "a.jpg", picture((40, 24))
    if kind == "no JPEG":
        image.save(file, "PNG")
    else:
        content = encoded(image.convert("CMYK") if kind == "printed" else image)
        file.write_bytes(content[:-200] if kind == "cut" else content)
    with Image.open(file) as opened:
        assert decode_jpeg(opened) is None
    if kind == "cut":
        with pytest.raises(UserError, match=r"cannot read .*a\.jpg: image file is truncated"):
            read_image(file)
    else:
        assert np.array_equal(read_image(file), rgb(open_image(file), "a"))


def test_a_pillow_that_decodes_otherwise_decodes_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As one that is built with another library."""
    import simplejpeg

    (tmp_path / "a.jpg").write_bytes(encoded(picture((40, 24))))
    expected, decode = read_image(tmp_path / "a.jpg"), simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *arguments: decode(*arguments) ^ 1)
    jpeg.find_decoder.cache_clear()
    try:
        assert find_decoder() is None
        assert np.array_equal(read_image(tmp_path / "a.jpg"), expected)
    finally:
        jpeg.find_decoder.cache_clear()
