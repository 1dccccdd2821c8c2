"""Choose files to remove, so that no image is in a data set twice."""

from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path

from lit_ad.batch import Sample
from lit_ad.data.audit.report import AuditReport
from lit_ad.image.pixels import split_page


def choose_files_to_remove(samples: Sequence[Sample], report: AuditReport) -> list[Path]:
    """Return one file of each pair of equal or nearly equal images: the one in training if the other is in the test,
    otherwise the second. If one is good and the other anomalous, neither is returned: a person must decide which label
    is right.
    """
    known = {split_page(sample.image)[0]: sample for sample in samples}
    removed: dict[Path, None] = {}
    for first, second in _list_pairs(report):
        if first == second or first not in known or second not in known or first in removed or second in removed:
            continue
        former, latter = known[first], known[second]
        if former.label == latter.label:
            removed[first if latter.split == "test" and former.split != "test" else second] = None
    return list(removed)


def _list_pairs(report: AuditReport) -> Iterable[tuple[Path, Path]]:
    """Yield all pairs of files with the same bytes, then all pairs of nearly equal images."""
    for group in report.duplicates:
        yield from combinations(group, 2)
    for first, second in report.near_duplicates:
        yield split_page(first)[0], split_page(second)[0]
