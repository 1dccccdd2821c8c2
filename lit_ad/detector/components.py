"""Find the connected components of a mask. NumPy only.

A run is a row of neighbouring mask pixels, as long as possible. Two searches in sorted arrays find all pairs of runs
that touch; no Python loop visits each run. Then runs that touch are joined, in rounds. Each round at least halves the
number of incomplete components (Shiloach and Vishkin, 1982, https://doi.org/10.1016/0196-6774(82)90008-6).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Components:
    """The n components of a mask (H, W), in the order of their first pixels, as r runs."""

    shape: tuple[int, int]  # H, W
    rows: Ints  # (r,): the row of each run, ascending
    starts: Ints  # (r,): its first column
    ends: Ints  # (r,): the column after its last one
    owner: Ints  # (r,): the number of its component, from 0
    sizes: Ints  # (n,): how many pixels each component has

    def touches(self, mask: Mask) -> Mask:
        """Return, for each component, whether it has a pixel of `mask` (H, W): (n,)."""
        before = np.zeros((self.shape[0], self.shape[1] + 1), np.int64)
        np.cumsum(mask, axis=1, out=before[:, 1:])
        inside = before[self.rows, self.ends] > before[self.rows, self.starts]
        return np.bincount(self.owner[inside], minlength=len(self.sizes)) > 0

    def touches_border(self) -> Mask:
        """Return, for each component, whether it has a pixel in the first or last row or column: (n,)."""
        height, width = self.shape
        border = (self.rows == 0) | (self.rows == height - 1) | (self.starts == 0) | (self.ends == width)
        return np.bincount(self.owner[border], minlength=len(self.sizes)) > 0

    def paint(self, keep: Mask) -> Mask:
        """Return the mask (H, W) of the components for which `keep` (n,) is true."""
        runs = keep[self.owner]
        edges = np.zeros((self.shape[0], self.shape[1] + 1), np.int8)
        edges[self.rows[runs], self.starts[runs]] = 1
        edges[self.rows[runs], self.ends[runs]] = -1
        return np.cumsum(edges[:, :-1], axis=1, dtype=np.int8).astype(bool)


def find_components(mask: Mask, corners: bool = True) -> Components:
    """Return the components of a mask (H, W): 8-connected; 4-connected if `corners` is False."""
    height, width = mask.shape
    edges = np.diff(np.pad(mask.view(np.int8), ((0, 0), (1, 1))), axis=1).ravel()
    rows, starts = np.divmod(
        np.flatnonzero(edges == 1), width + 1
    )  # np.nonzero of two dimensions takes several times as long
    ends = np.flatnonzero(edges == -1) % (width + 1)
    owner = join(len(rows), *_pair_touching_runs(rows, starts, ends, width, corners))
    sizes = np.bincount(owner, ends - starts).astype(np.int64)
    return Components((height, width), rows, starts, ends, owner, sizes)


def _pair_touching_runs(rows: Ints, starts: Ints, ends: Ints, width: int, corners: bool) -> tuple[Ints, Ints]:
    """Return the p pairs of runs that touch: the numbers of the upper runs (p,), and of the runs below them (p,).

    All rows are laid end to end, with `width + 2` columns each. So one sorted array holds the starts of all runs, and
    another one their ends.
    """
    begin, end = rows * (width + 2) + starts, rows * (width + 2) + ends
    below = width + 2
    first = np.searchsorted(end, begin + below, side="left" if corners else "right")
    after = np.searchsorted(begin, end + below, side="right" if corners else "left")
    count = np.maximum(after - first, 0)
    upper = np.repeat(np.arange(len(rows)), count)
    offset = np.arange(len(upper)) - np.repeat(np.cumsum(count) - count, count)
    return upper, np.repeat(first, count) + offset


def join(number: int, first: Ints, second: Ints) -> Ints:
    """Join items that belong together into groups.

    Args:
        number: How many items there are.
        first: (p,): one item of each pair that belongs together, from 0 to number - 1.
        second: (p,): the other item of each pair.

    Returns:
        (number,): the group of each item, from 0, in the order of the groups' first items.
    """
    parent = np.arange(number)
    while len(first):
        roots = parent[first], parent[second]
        apart = roots[0] != roots[1]
        first, second = first[apart], second[apart]
        np.minimum.at(parent, np.maximum(*roots)[apart], np.minimum(*roots)[apart])
        while not np.array_equal(parent, grandparent := parent[parent]):
            parent = grandparent
    return np.unique(parent, return_inverse=True)[1].astype(np.int64)


def find_peak_of_area(anomaly_map: NDArray[np.float32], area: int, inside: Mask | None = None) -> float:
    """Return the highest value v of a map for which the pixels >= v have a region of at least `area` pixels.

    So a threshold below v marks such a region (pixels above it are marked), and a threshold of v or more marks none.

    Args:
        anomaly_map: (H, W).
        area: Pixels. If the map has fewer, its lowest value is returned.
        inside: The pixels that count, (H, W). None: all.
    """
    values = np.sort(anomaly_map if inside is None else anomaly_map[inside], axis=None)[::-1]

    def has_region(rank: int) -> bool:
        mask = anomaly_map >= values[rank]
        return bool(find_components(mask if inside is None else mask & inside).sizes.max() >= area)

    last = len(values) - 1
    high = min(area - 1, last)
    low = high - 1  # no region at this rank; ranks grow until there is one
    while high < last and not has_region(high):
        low, high = high, min(2 * high + 1, last)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if has_region(middle) else (middle, high)
    return float(values[high])
