"""Recall and precision of defects as things to count: which are found by a region of their own.

A defect, a connected region (8-connected) of the mask, is found if a connected region of the pixels above the threshold
covers it with an intersection over union of `LEAST` or more. One region finds one defect: the pairs with the highest
intersection over union come first. The recall is the share of defects that are found; the precision, the share of
marked regions that find one.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lit_ad.distributed import add_up
from lit_ad.metrics.aupro import QUARTERS, weighted_quantile
from lit_ad.metrics.regions import bounding_box, label_regions

LEAST = 0.3
POINTS = 200  # of a curve, at most
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Matches:
    """The defects of an image, and the marked regions."""

    sizes: NDArray[np.int64]  # (D,): pixels of each defect
    hit: Bools  # (D,)
    marked: int  # regions


class Instances:
    """Defects found and regions marked, by group of images; each process counts its own images."""

    def __init__(self) -> None:
        self.defects: Counter[tuple[str, int, bool]] = Counter()  # by group, size in pixels, and if it is found
        self.marked: Counter[str] = Counter()  # by group

    def update(self, group: str, truth: Bools, marked: Bools) -> None:
        """Count an image's defects and marked regions, 2 x (H, W)."""
        matches = match_regions(truth, marked)
        defects = zip(matches.sizes.tolist(), matches.hit.tolist(), strict=True)
        self.defects.update((group, size, hit) for size, hit in defects)
        self.marked[group] += matches.marked

    def curves(self) -> dict[str, tuple[Floats, Floats]]:
        """Points (x, y) over all groups: `instances`, the share of defects that are found, of those up to a size in
        pixels; nothing without any. Every process must call it."""
        defects = [(size, hit, count) for (_, size, hit), count in add_up(self.defects).items()]
        return {"instances": draw(*np.array(defects, np.int64).T)} if defects else {}

    def compute_rows(self, rows: Mapping[str, Iterable[str]]) -> dict[str, dict[str, float]]:
        """`instance_recall`, also of the smallest quarter, half and three quarters of the defects, and
        `instance_precision` of each row, a set of groups by name; nan of none. Each process must call it, and gets
        the same values."""
        defects, marked = add_up(self.defects), add_up(self.marked)
        values = {}
        for row, groups in rows.items():
            wanted = set(groups)
            own = sorted((size, hit, count) for (group, size, hit), count in defects.items() if group in wanted)
            values[row] = _recalls(
                *(np.array(part, np.int64) for part in (zip(*own, strict=True) if own else [[]] * 3))
            )
            hits, all_marked = sum(hit * count for _, hit, count in own), sum(marked[group] for group in wanted)
            values[row]["instance_precision"] = hits / all_marked if all_marked else float("nan")
        return values


def draw(sizes: NDArray[np.int64], hit: NDArray[np.int64], count: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Points (x, y): sizes, ascending, and the share found of the defects of that size or less; of sizes, whether the
    defects are found, and how many there are of each, 3 x (n,)."""
    distinct = np.unique(sizes)
    place = np.searchsorted(distinct, sizes)
    hits, total = (np.cumsum(np.bincount(place, part)) for part in (hit * count, count))
    drawn = np.unique(np.linspace(0, len(distinct) - 1, POINTS).round().astype(int))
    return distinct[drawn].astype(np.float64), (hits / total)[drawn]


def _recalls(sizes: NDArray[np.int64], hit: NDArray[np.int64], count: NDArray[np.int64]) -> dict[str, float]:
    """`instance_recall` up to each quantile of QUARTERS of the defects' sizes; of ascending sizes, whether they are
    found, and how many defects there are of each, 3 x (n,)."""
    row = {}
    for name, quantile in QUARTERS.items():
        keep = sizes <= (weighted_quantile(sizes, count, quantile) if len(sizes) else 0)
        total = int(count[keep].sum())
        key = "instance_recall" + ("" if name == "all" else f"_{name}")
        row[key] = int((hit * count)[keep].sum()) / total if total else float("nan")
    return row


def match_regions(truth: Bools, marked: Bools, least: float = LEAST) -> Matches:
    """Match the regions of two masks, 2 x (H, W)."""
    box = bounding_box(truth | marked)  # most of an image is neither
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
