"""These tests compare the text of a report."""

from pathlib import Path

import pytest

from lit_ad.batch import Sample
from lit_ad.data.audit.measurements import Header
from lit_ad.data.audit.report import (
    AuditReport,
    describe_sizes,
    describe_splits,
    describe_test,
    describe_unfit,
    describe_unreadable,
)
from lit_ad.data.sources.source import Source
from lit_ad.data.splits import Splits
from lit_ad.errors import UserError

GOOD, MASK = Sample(Path("good.png"), 0, defect="good"), Path("mask.png")


def bad(defect: str, mask: Path | None = None) -> Sample:
    return Sample(Path(f"{defect}.png"), 1, mask, defect=defect)


@pytest.mark.parametrize(
    ("samples", "text"),
    [
        ([], "none"),
        ([GOOD, GOOD], "2 good"),
        ([bad("cut"), bad("bent"), bad("cut")], "1 bent, 2 cut, no masks"),
        ([GOOD, bad("cut", MASK)], "1 good, 1 cut, each with a mask"),
        ([bad("cut", MASK), bad("cut"), bad("bent")], "1 bent (0 with masks), 2 cut (1 with masks)"),
    ],
)
def test_the_report_counts_test_images_by_defect_and_mask(samples: list[Sample], text: str) -> None:
    assert describe_test(samples) == text


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ([(2, 3)] * 5, "2x3"),
        ([(2, 3), (9, 1), (9, 1)], "9x1 (2), 2x3 (1)"),
        ([(4, 4), (1, 2), (3, 9), (5, 5)], "1x2 to 3x9 (4 sizes)"),
    ],
)
def test_the_report_lists_few_sizes_and_gives_a_range_of_many(sizes: list[tuple[int, int]], text: str) -> None:
    assert describe_sizes(sizes) == text


def test_a_category_without_name_is_called_images() -> None:
    splits = Splits([GOOD, bad("cut")])
    text = describe_splits(splits, {GOOD.image: Header((2, 3), "8-bit RGB")})
    assert text == "images: 2 to train on, 0 held out; test: none; 2x3, 8-bit RGB"
    assert describe_splits(splits, {}) == "images: 2 to train on, 0 held out; test: none"


def test_unreadable_files_are_named_in_one_error() -> None:
    assert describe_unreadable({}) == describe_unfit({}) == []
    assert describe_unreadable({Path("a"): "cut off"}) == ["cannot read a: cut off; replace or remove it"]
    many = describe_unreadable({Path(name): f"reason {name}" for name in "abcde"})
    assert many == ["cannot read 5 files: a, b, c and 2 more; replace or remove them (the first: reason a)"]


def test_the_remarks_of_a_source_are_added_to_the_warnings() -> None:
    class Remarking(Source):
        broken = False

        def samples(self) -> list[Sample]:
            return []

        def remarks(self) -> list[str]:
            if self.broken:
                raise UserError("no test set")
            return ["a folder is passed over"]

    source, report = Remarking(), AuditReport("text", ["first"], [], [])
    report.add_source_remarks(source)
    source.broken = True
    report.add_source_remarks(source)
    assert (report.warnings, report.errors) == (["first", "a folder is passed over"], ["no test set"])
    assert str(report) == "text\n  Warning: first\n  Warning: a folder is passed over"


def test_an_image_that_does_not_fit_the_view_is_not_reported_as_unreadable() -> None:
    broken, deep = {Path("a.png"): "it ends early"}, {Path("b.png"): "b.png has 8 bits, and view.window is for more"}
    assert [*describe_unreadable(broken), *describe_unfit(deep)] == [
        "cannot read a.png: it ends early; replace or remove it",
        "model.view does not fit 1 image: change it, or leave them out (the first, b.png: b.png has 8 bits, and "
        "view.window is for more)",
    ]
    assert describe_unreadable({}) == []
