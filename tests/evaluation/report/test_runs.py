"""Runs get different names, and their images are matched."""

from pathlib import Path

import pytest

from lit_ad.errors import UserError
from lit_ad.evaluation.report.runs import match_images, name_runs
from lit_ad.evaluation.results import ImageResult


def test_each_run_gets_a_name_of_its_own() -> None:
    assert name_runs([Path("runs/stfpm/1"), Path("runs/mkd/2")]) == ["1", "2"]
    assert name_runs([Path("/r/stfpm/1"), Path("/r/mkd/1")]) == ["stfpm/1", "mkd/1"]
    with pytest.raises(UserError, match="is given twice"):
        name_runs([Path("runs/a"), Path("runs/a")])


def image(path: str, score: float = 1.0) -> ImageResult:
    return ImageResult(path, "nut", "good", 0, score, 2.0, 0.5)


def test_images_are_matched_by_path_or_below_their_common_folder() -> None:
    same = match_images([[image("/a/x.png"), image("/a/good/y.png")], [image("/a/good/y.png"), image("/a/good/z.png")]])
    seen = [(one.file, [r is not None for r in one.results]) for one in same]
    assert seen == [("x.png", [True, False]), ("good/y.png", [True, True]), ("z.png", [False, True])]
    other_disk = [image("/mnt/b/x.png", 3.0), image("/mnt/g/x.png")]
    moved = match_images([[image("/a/g/x.png"), image("/a/b/x.png")], other_disk])
    assert [one.file for one in moved] == ["g/x.png", "b/x.png"]
    assert [one.score for one in moved[1].results if one is not None] == [1.0, 3.0]
    copied = match_images([[image("/a/g/x.jpg"), image("/a/b/x.jpg")], [image("/c/g/x.png"), image("/c/b/x.png")]])
    assert [one.file for one in copied] == ["g/x.jpg", "b/x.jpg"]
    twins = match_images([[image("/a/x.jpg"), image("/a/x.png")], [image("/c/x.png"), image("/c/x.bmp")]])
    assert [one.file for one in twins] == ["x.jpg", "x.png", "x.bmp"]
