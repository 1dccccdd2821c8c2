"""The audit finds images that are nearly the same among images that only look similar."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lit_ad.batch import Sample, SplitName
from lit_ad.data.audit.near_duplicates import (
    drop_equal_files,
    find_near_duplicates,
    find_similar_consecutive,
    fingerprint_images,
    list_near_duplicate_warnings,
)

GENERATOR = np.random.default_rng(0)


def surface(seed: int) -> np.ndarray:
    """Draw a part at a fixed place: the same disc on a background, and a texture that depends on the seed."""
    rows, columns = np.mgrid[:96, :96]
    disc = 60.0 + 120 * (np.hypot(rows - 48, columns - 48) < 30)
    coarse = np.random.default_rng(seed).normal(0, 25, (12, 12)).astype(np.float32)
    part: np.ndarray = disc + np.asarray(Image.fromarray(coarse).resize((96, 96)))
    return part.clip(0, 255).astype(np.uint8)


def written(folder: Path, name: str, pixels: np.ndarray, split: SplitName = "train", label: int = 0) -> Sample:
    path = folder / name
    options: dict[str, Any] = {"quality": 60} if path.suffix == ".jpg" else {}
    Image.fromarray(pixels).save(path, **options)
    return Sample(path, label, split=split, defect="bad" if label else "good")


def test_a_copy_in_another_format_size_or_depth_is_found_and_no_other_image(tmp_path: Path) -> None:
    samples = [written(tmp_path, f"part{i:02}x{i * 7}.png", surface(i)) for i in range(12)]
    copy = written(tmp_path, "again.jpg", surface(3), "test")
    smaller = np.asarray(Image.fromarray(surface(5)).resize((80, 80)))
    bad = written(tmp_path, "smaller.png", smaller, "test", 1)
    deep = written(tmp_path, "deep.png", surface(7).astype(np.uint16) << 4, "test")
    (tmp_path / "broken.png").write_text("no image")
    prints = fingerprint_images([*samples, copy, bad, deep, Sample(tmp_path / "broken.png", 0)], threads=2)
    assert len(prints.samples) == 15
    found = {(first.image.name, second.image.name) for first, second in find_near_duplicates(prints)}
    names = [samples[i].image.name for i in (3, 5, 7)]
    assert found == {(names[0], "again.jpg"), (names[1], "smaller.png"), (names[2], "deep.png")}
    pairs = find_near_duplicates(prints)
    (warning,) = list_near_duplicate_warnings(prints, pairs)
    assert (
        warning.startswith("nearly the same image in training and test, 3 pairs: ")
        and "metrics will be too good" in warning
    )
    exact = {frozenset((samples[3].image, copy.image))}
    assert "2 pairs" in list_near_duplicate_warnings(prints, drop_equal_files(pairs, exact))[0]
    assert list_near_duplicate_warnings(fingerprint_images([], 1), []) == []


def test_consecutive_frames_of_one_film_in_training_and_test_are_a_warning(tmp_path: Path) -> None:
    """The frames change slowly and are split at random. Parts with unrelated numbers give no warning."""
    first, last = surface(1).astype(float), surface(2).astype(float)
    film = [written(tmp_path, f"frame_{i:03}.png", (first + (last - first) * i / 39).astype(np.uint8),
                    "test" if i % 3 == 0 else "train") for i in range(40)]  # fmt: skip
    pairs, share = find_similar_consecutive(fingerprint_images(film, 2))
    assert len(pairs) == 26 and share < 0.2
    assert all((first.split, second.split) == ("train", "test") for first, second in pairs)
    assert any("consecutive numbers" in said for said in list_near_duplicate_warnings(fingerprint_images(film, 2), []))
    parts = [
        written(tmp_path, f"part_{i:03}.png", surface(100 + i), "test" if i % 3 == 0 else "train") for i in range(40)
    ]
    assert find_similar_consecutive(fingerprint_images(parts, 2))[1] > 0.8
    prints = fingerprint_images(parts, 2)
    assert list_near_duplicate_warnings(prints, find_near_duplicates(prints)) == []
