"""Every reader reads images and metadata beyond Pillow's limits and up to ours, in several threads."""

import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from lit_ad.data.audit.measurements import read_header, verify_file
from lit_ad.data.masks import read_mask
from lit_ad.errors import UserError
from lit_ad.image.limits import MEGAPIXELS, METADATA, PILLOW, TooLarge, read_limit, read_within_limits
from lit_ad.image.pixels import list_page_paths, open_image, read_image, read_upright_size, to_rgb
from lit_ad.image.view import View

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
READERS: list[Callable[[Path], object]] = [
    *(open_image, read_image, to_rgb, read_upright_size, read_mask, verify_file),
    lambda path: read_header(path, View()),
]
SMALL = 100  # pixels: what Pillow's limit is here, so that no image of 180 megapixels is needed


def state() -> tuple[int | None, int, int]:
    return Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY


@pytest.mark.parametrize("warned", [False, True])
@pytest.mark.parametrize("extension", ["png", "jpg", "tiff", "bmp", "webp"])
def test_images_larger_than_pillow_allows_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extension: str, warned: bool
) -> None:
    path = tmp_path / f"x.{extension}"
    Image.fromarray(PIXELS).save(path)
    expected = read_image(path)
    # Above its limit Pillow warns, and some users make errors of warnings; above twice the limit it raises an error.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500 if warned else SMALL)
    before = state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for read in READERS:
            read(path)
        assert np.array_equal(read_image(path), expected) and read_upright_size(path) == (40, 50)
    assert state() == before


def test_pages_larger_than_pillow_allows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, page = tmp_path / "stack.tif", Image.fromarray(PIXELS)
    page.save(path, save_all=True, append_images=[page, page])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SMALL)
    pages = list_page_paths(path)
    assert len(pages) == 3 and np.array_equal(read_image(pages[2]), PIXELS)


def texts(kind: str) -> dict[str, Any]:
    """Return arguments of `save` for a PNG with 3 MiB of metadata."""
    long, info = "x" * 3 * 2**20, PngImagePlugin.PngInfo()
    if kind == "profile":
        return {"icc_profile": bytes(3 * 2**20)}
    if kind == "behind the pixels":
        info.add(b"zTXt", b"Comment\0\0" + zlib.compress(long.encode()), after_idat=True)
    else:
        info.add_text("Comment", long, zip=True)
    return {"pnginfo": info}


@pytest.mark.parametrize("kind", ["text", "profile", "behind the pixels"])
def test_more_metadata_than_pillow_allows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path, before = tmp_path / "x.png", state()
    Image.fromarray(PIXELS).save(path, **texts(kind))
    with pytest.raises(ValueError, match="MAX_TEXT"), Image.open(path) as image:
        image.load()
    for read in READERS:
        read(path)
    assert np.array_equal(read_image(path), PIXELS) and state() == before

    monkeypatch.setenv(METADATA, "2")
    with pytest.raises(UserError, match=rf"cannot read {path}: .*more than the 2 MiB .* {METADATA} allows; replace"):
        read_image(path)
    assert state() == before


@pytest.mark.parametrize("read", READERS)
def test_an_error_names_our_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(PIXELS).save(path)
    monkeypatch.setenv(MEGAPIXELS, "0.001")
    for pillow in (SMALL, None):  # a program may have switched Pillow's off
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow)
        with pytest.raises(UserError, match=rf"{path}: it has 40x50 pixels .* the 0.001 million .* {MEGAPIXELS}"):
            read(path)


@pytest.mark.parametrize("text", ["no number", "0", "-5", "nan"])
def test_limits_that_are_no_number_above_0_are_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(MEGAPIXELS, text)
    with pytest.raises(UserError, match=f"{MEGAPIXELS} is '{text}', but it must be a number above 0"):
        read_limit(MEGAPIXELS)
    monkeypatch.setenv(MEGAPIXELS, "")
    assert read_limit(MEGAPIXELS) == 1000


def test_other_errors_are_not_retried() -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken") as caught:
        read_within_limits(fail)
    assert len(calls) == 1 and not isinstance(caught.value, TooLarge)


def test_threads_share_the_replaced_limits_and_restore_them(monkeypatch: pytest.MonkeyPatch) -> None:
    before, both_in, one_out = state(), Barrier(2), Barrier(2)

    def stay(first: bool) -> tuple[int | None, int, int]:
        with PILLOW.replaced():
            both_in.wait(10)
            if first:
                inside = state()
            else:
                one_out.wait(10)  # the first has left the block, and this thread is still in it
                inside = state()
        if first:
            one_out.wait(10)
        return inside

    with ThreadPoolExecutor(2) as pool:
        inside = list(pool.map(stay, (True, False)))
    assert inside == [(None, 64 * 2**20, 64 * 2**20)] * 2 and state() == before
