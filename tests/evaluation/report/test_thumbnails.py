"""Thumbnails have bounded sizes, and the file does not depend on which process drew them."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lit_ad.errors import UserError
from lit_ad.evaluation.report.thumbnails import (
    THUMBNAILS,
    Thumbnails,
    compute_thumbnail_size,
    encode_jpeg,
    encode_outline,
    join_archives,
)

NOISE = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
Decoded = Callable[[bytes | None], np.ndarray]


@pytest.mark.parametrize("most", [14_000, 7_000, 900])
def test_a_picture_of_noise_fits_the_size(pixels_of: Decoded, most: int) -> None:
    found = encode_jpeg(NOISE, most)
    assert most / 4 < len(found) <= most
    height, width, _ = pixels_of(found).shape
    assert height == width <= 256


def test_a_smooth_picture_keeps_its_pixels(pixels_of: Decoded) -> None:
    ramp = np.repeat(np.linspace(0, 255, 256, dtype=np.uint8)[None, :, None], 256, axis=0).repeat(3, axis=2)
    assert np.abs(pixels_of(encode_jpeg(ramp, 14_000)).astype(int) - ramp).max() <= 3


def test_outlines_have_one_colour_on_a_transparent_ground(pixels_of: Decoded) -> None:
    mask = NOISE[..., 0] > 128
    found = encode_outline(mask, (0, 255, 0))
    assert len(found) <= 8_600
    assert np.array_equal(pixels_of(found)[..., 3] > 0, mask)
    assert (pixels_of(found)[mask] == (0, 255, 0, 255)).all()


def test_thumbnails_keep_the_proportions() -> None:
    assert compute_thumbnail_size((1024, 2048)) == (128, 256)
    assert compute_thumbnail_size((32, 32)) == (32, 32)
    assert compute_thumbnail_size((4096, 16)) == (256, 8)


def archive(file: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w") as part:
        for name, data in entries.items():
            part.writestr(name, data)
    return file


def test_the_parts_of_processes_become_one_file(tmp_path: Path) -> None:
    entries = {"10.image": b"ten", "2.image": b"two", "2.truth": b"mask", "0.image": b"none", "0.heat": b"heat"}
    paths = {10: "/a/ten.png", 2: "/a/two.png", 0: "/a/0.png", 11: "/a/elsewhere.png"}
    one = archive(tmp_path / "one", entries)
    halves = [
        archive(tmp_path / name, {k: v for k, v in entries.items() if ("2" in k) == kept})
        for name, kept in (("a", True), ("b", False))
    ]
    assert join_archives([one], paths, tmp_path / "1" / THUMBNAILS) == [11]
    assert join_archives(halves, dict(reversed(paths.items())), tmp_path / "2" / THUMBNAILS) == [11]
    assert (tmp_path / "1" / THUMBNAILS).read_bytes() == (tmp_path / "2" / THUMBNAILS).read_bytes()
    thumbnails = Thumbnails(tmp_path / "1")
    assert thumbnails("/a/two.png", "truth") == b"mask" and thumbnails.size("/a/two.png", "truth") == 4
    assert thumbnails("/a/0.png", "heat") == b"heat"
    for path, kind in (("/a/0.png", "truth"), ("/a/elsewhere.png", "image"), ("/b/unknown.png", "image")):
        assert thumbnails(path, kind) is None and thumbnails.size(path, kind) == 0


def test_a_missing_file_is_empty_and_a_broken_one_refused(tmp_path: Path) -> None:
    assert Thumbnails(tmp_path)("/a.png", "image") is None
    (tmp_path / THUMBNAILS).write_text("no archive")
    with pytest.raises(UserError, match=r"thumbnails.zip has no thumbnails .*test the run again"):
        Thumbnails(tmp_path)
