"""Which files to remove, so that no image is there twice."""

from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path

from lit_ad.batch import Sample
from lit_ad.data.audit.report import AuditReport
from lit_ad.image.pixels import split_page


def files_to_remove(samples: Sequence[Sample], report: AuditReport) -> list[Path]:
    """The second file of each pair of copies, or of nearly the same images; of one in training and one in the test, the
    one in training. A good and an anomalous image both stay: a person must say which of the two is right."""
    known = {split_page(sample.image)[0]: sample for sample in samples}
    removed: dict[Path, None] = {}
    for first, second in _pairs_of(report):
        if first == second or first not in known or second not in known or first in removed or second in removed:
            continue
        former, latter = known[first], known[second]
        if former.label == latter.label:
            removed[first if latter.split == "test" and former.split != "test" else second] = None
    return list(removed)


def _pairs_of(report: AuditReport) -> Iterable[tuple[Path, Path]]:
    """All pairs of files with the same bytes, then those of nearly the same images."""
    for group in report.duplicates:
        yield from combinations(group, 2)
    for first, second in report.near_duplicates:
        yield split_page(first)[0], split_page(second)[0]
