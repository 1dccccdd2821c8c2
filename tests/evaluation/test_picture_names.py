"""Each image has a name of its own for its files, on any file system."""

import os
from pathlib import Path

import pytest

from lit_ad.batch import Sample
from lit_ad.evaluation.picture_names import fold, picture_names


def named(*images: str, category: str = "nut", label: int = 0) -> list[str]:
    defect = "good" if label >= 0 else ""  # below the category, of images to predict
    samples = [Sample(Path(path), label, category=category, defect=defect) for path in images]
    names = picture_names(samples)
    assert list(names) == list(images)
    return list(names.values())


def test_a_name_has_the_category_and_the_folder() -> None:
    assert named("/x/test/dent/3.png", "/x/test/good/3.png") == ["nut/dent/3", "nut/good/3"]
    assert named("/x/new/3.png", category="new", label=-1) == ["new/3"]
    assert named("/x/3.png", category="", label=-1) == ["3"]
    assert named("3.png") == ["nut/3"]


def test_no_two_pictures_share_a_name() -> None:
    """Folders may have the same last name, and files may differ in suffix or case only: no picture is overwritten."""
    assert named("/x/a/good/1.png", "/x/b/good/1.png", "/x/b/good/2.png") == [
        *("nut/a/good/1", "nut/b/good/1", "nut/b/good/2")
    ]
    assert named("/x/a/good/1.png", "/y/a/good/1.png") == ["nut/x/a/good/1", "nut/y/a/good/1"]
    assert named("/x/good/1.png", "/x/good/1.jpg") == ["nut/good/1.png", "nut/good/1.jpg"]
    assert named("/x/1.png", "/x/1.jpg", label=-1) == ["nut/1.png", "nut/1.jpg"]
    assert named("/x/a/good/1.png", "/x/b/Good/1.png") == ["nut/a/good/1", "nut/b/Good/1"]
    assert named("/good/1.png", "/x/good/1.png") == ["nut/good/1", "nut/x/good/1"]


def test_a_name_depends_on_the_images_of_its_category_only() -> None:
    samples = [Sample(Path(path), 0, category=c) for path, c in (("/a/g/1.png", "a"), ("/b/g/1.png", "b"))]
    assert list(picture_names(samples).values()) == ["a/g/1", "b/g/1"]


def test_names_that_are_equal_on_some_file_systems_get_numbers() -> None:
    """They differ by case, or by Unicode's normal form (a letter and its accent, as macOS writes them)."""
    composed, decomposed = "/x/test/pr\u00fcf.png", "/x/test/pru\u0308f.png"
    assert named("/x/t/a.png", "/x/t/A.png", "/x/t/b.png") == ["nut/t/a", "nut/t/A~2", "nut/t/b"]
    assert len({fold(name) for name in named(composed, decomposed, "/x/test/PR\u00dcF.png")}) == 3


@pytest.mark.parametrize("letter", ["a", "\u00e4", "\udcfc"])
def test_a_long_name_leaves_room_for_a_suffix(tmp_path: Path, letter: str) -> None:
    longest = letter * (250 // len(os.fsencode(letter)))
    images = [f"/x/test/{longest}{end}.png" for end in "bc"]
    names = named(*images)
    assert len(set(names)) == 2
    for name in names:
        (tmp_path / f"{Path(name).name}.tiff").touch()  # no OSError: File name too long
