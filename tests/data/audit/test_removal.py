"""Which files go, so that no image is there twice."""

from pathlib import Path

from lit_ad.batch import Sample, SplitName
from lit_ad.data.audit.removal import files_to_remove
from lit_ad.data.audit.report import AuditReport


def test_of_two_copies_one_goes() -> None:
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
        return "".join(map(str, files_to_remove(samples, AuditReport("", [], [], groups, pairs))))

    assert removed(["ab"], []) == "b"  # the second
    assert removed(["ca"], []) == removed([], ["ac"]) == "a"  # the one in training
    assert removed(["abc"], []) == "ba"
    assert removed(["df"], ["fe"]) == ""  # a person must say which of the two is right
    assert removed(["de"], ["ed"]) == "e"  # once
