"""The audit chooses which files to remove, so that no image is there twice."""

from pathlib import Path

from lit_ad.batch import Sample, SplitName
from lit_ad.data.audit.removal import choose_files_to_remove
from lit_ad.data.audit.report import AuditReport


def test_one_of_two_copies_is_removed() -> None:
    names: dict[str, tuple[SplitName, int]] = {
        "a": ("train", 0),
        "b": ("train", 0),
        "c": ("test", 0),
        "d": ("test", 1),
        "e": ("test", 1),
        "f": ("test", 0),
    }
    samples = [Sample(Path(name), label, split=split) for name, (split, label) in names.items()]

    def removed(duplicates: list[str], near: list[str]) -> str:
        groups = [[Path(name) for name in group] for group in duplicates]
        pairs = [(Path(pair[0]), Path(pair[1])) for pair in near]
        return "".join(map(str, choose_files_to_remove(samples, AuditReport("", [], [], groups, pairs))))

    assert removed(["ab"], []) == "b"  # the second copy is removed
    assert removed(["ca"], []) == removed([], ["ac"]) == "a"  # the copy in training is removed
    assert removed(["abc"], []) == "ba"
    assert removed(["df"], ["fe"]) == ""  # a person must decide which of the two labels is right
    assert removed(["de"], ["ed"]) == "e"  # the file is listed once
