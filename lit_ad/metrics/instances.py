"""Recall and precision of whole defects: how many are found by a marked region.

A defect is a connected region (8-connected) of the mask. It is found if its intersection over union with a connected
region of the pixels above the threshold is `_LEAST` or more. One region finds at most one defect: pairs with the
highest intersection over union are matched first. The recall is the share of defects that are found. The precision is
the share of marked regions that find a defect.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lit_ad.distributed import add_up
from lit_ad.metrics.aupro import QUARTERS, find_weighted_quantile
from lit_ad.metrics.regions import find_bounding_box, label_regions

_LEAST = 0.3
POINTS = 200  # the most points of a curve
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Matches:
    """The D defects of an image, and its marked regions."""

    sizes: NDArray[np.int64]  # (D,): pixels of each defect
    hit: Bools  # (D,): whether it is found
    marked: int  # the number of marked regions


class Instances:
    """Counts defects and marked regions by group of images. Each process counts its own images."""

    def __init__(self) -> None:
        self.defects: Counter[tuple[str, int, bool]] = Counter()  # by group, size in pixels, and whether it is found
        self.marked: Counter[str] = Counter()  # by group

    def update(self, group: str, truth: Bools, marked: Bools) -> None:
        """Count the defects of `truth` (H, W) and the regions of `marked` (H, W) of an image."""
        matches = match_regions(truth, marked)
        defects = zip(matches.sizes.tolist(), matches.hit.tolist(), strict=True)
        self.defects.update((group, size, hit) for size, hit in defects)
        self.marked[group] += matches.marked

    def curves(self) -> dict[str, tuple[Floats, Floats]]:
        """Return the curve `instances` over all groups: sizes in pixels, and the share of the defects up to that size
        that are found. There is no curve without defects. Every process must call this."""
        defects = [(size, hit, count) for (_, size, hit), count in add_up(self.defects).items()]
        return {"instances": _measure_recall_by_size(*np.array(defects, np.int64).T)} if defects else {}

    def compute_rows(self, rows: Mapping[str, Iterable[str]]) -> dict[str, dict[str, float]]:
        """Return the recall and the precision of each row, which is a set of groups.

        A row has `instance_precision`, `instance_recall`, and by defect size `instance_recall_smallest_quarter`,
        `instance_recall_smallest_half` and `instance_recall_smallest_three_quarters`. A value is NaN without regions
        or without defects. Each process must call this, and gets the same values.
        """
        defects, marked = add_up(self.defects), add_up(self.marked)
        values = {}
        for row, groups in rows.items():
            names = set(groups)
            own = sorted((size, hit, count) for (group, size, hit), count in defects.items() if group in names)
            values[row] = _measure_recalls(*np.array(own, np.int64).reshape(-1, 3).T)
            hits, all_marked = sum(hit * count for _, hit, count in own), sum(marked[group] for group in names)
            values[row]["instance_precision"] = hits / all_marked if all_marked else float("nan")
        return values


def _measure_recall_by_size(
    sizes: NDArray[np.int64], hit: NDArray[np.int64], count: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Return points (x, y): sizes, ascending, and the share of the defects up to that size that are found.

    Args:
        sizes: The sizes of defects, (n,).
        hit: Whether the defects are found, 0 or 1, (n,).
        count: How many defects have this size and this `hit`, (n,).
    """
    distinct = np.unique(sizes)
    place = np.searchsorted(distinct, sizes)
    hits, total = (np.cumsum(np.bincount(place, part)) for part in (hit * count, count))
    points = np.unique(np.linspace(0, len(distinct) - 1, POINTS).round().astype(int))
    return distinct[points].astype(np.float64), (hits / total)[points]


def _measure_recalls(sizes: NDArray[np.int64], hit: NDArray[np.int64], count: NDArray[np.int64]) -> dict[str, float]:
    """Return `instance_recall` for each name of QUARTERS: of the defects up to that quantile of their sizes.

    The arguments are those of `_measure_recall_by_size`; sizes are ascending.
    """
    row = {}
    for name, quantile in QUARTERS.items():
        keep = sizes <= (find_weighted_quantile(sizes, count, quantile) if len(sizes) else 0)
        total = int(count[keep].sum())
        key = "instance_recall" + ("" if name == "all" else f"_{name}")
        row[key] = int((hit * count)[keep].sum()) / total if total else float("nan")
    return row


def match_regions(truth: Bools, marked: Bools, least: float = _LEAST) -> Matches:
    """Match the defects of `truth` (H, W) with the regions of `marked` (H, W): see the module's docstring.

    `least`: the least intersection over union of a match.
    """
    box = find_bounding_box(truth | marked)  # saves time: most of an image is neither
    truth, marked = truth[box], marked[box]
    defects, defect_sizes = label_regions(truth)
    regions, region_sizes = label_regions(marked)
    hit = np.zeros(len(defect_sizes), bool)
    both = truth & marked
    pairs, shared = np.unique(
        defects[both].astype(np.int64) * (len(region_sizes) + 1) + regions[both], return_counts=True
    )
    defect, region = np.divmod(pairs, len(region_sizes) + 1)
    overlap = shared / (defect_sizes[defect - 1] + region_sizes[region - 1] - shared)
    taken: set[int] = set()
    for pair in np.argsort(-overlap, kind="stable"):
        if overlap[pair] >= least and not hit[defect[pair] - 1] and int(region[pair]) not in taken:
            hit[defect[pair] - 1] = True
            taken.add(int(region[pair]))
    return Matches(defect_sizes, hit, len(region_sizes))
