"""Connected pixels of a mask, by the runs of its rows. NumPy only.

No step goes through runs one by one: runs that touch are pairs of one search in sorted arrays, and each round of
joining them leaves at most half of the parts that are not complete (Shiloach and Vishkin, 1982,
https://doi.org/10.1016/0196-6774(82)90008-6).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Components:
    """The connected parts of a mask (H, W), in the order of their first pixels."""

    shape: tuple[int, int]
    rows: Ints  # (r,), of runs of pixels, ascending
    starts: Ints  # (r,): the first column
    ends: Ints  # (r,): the column after the last one
    owner: Ints  # (r,): the part that a run belongs to, from 0
    sizes: Ints  # (n,): the pixels of each part

    def touches(self, mask: Mask) -> Mask:
        """Whether each part has a pixel of a mask (H, W): (n,)."""
        before = np.zeros((self.shape[0], self.shape[1] + 1), np.int64)
        np.cumsum(mask, axis=1, out=before[:, 1:])
        inside = before[self.rows, self.ends] > before[self.rows, self.starts]
        return np.bincount(self.owner[inside], minlength=len(self.sizes)) > 0

    def at_border(self) -> Mask:
        """Whether each part has a pixel in the first or last row or column: (n,)."""
        height, width = self.shape
        there = (self.rows == 0) | (self.rows == height - 1) | (self.starts == 0) | (self.ends == width)
        return np.bincount(self.owner[there], minlength=len(self.sizes)) > 0

    def paint(self, keep: Mask) -> Mask:
        """Return the mask (H, W) of some parts (n,)."""
        runs = keep[self.owner]
        edges = np.zeros((self.shape[0], self.shape[1] + 1), np.int8)
        edges[self.rows[runs], self.starts[runs]] = 1
        edges[self.rows[runs], self.ends[runs]] = -1
        return np.cumsum(edges[:, :-1], axis=1, dtype=np.int8).astype(bool)


def connected(mask: Mask, corners: bool = True) -> Components:
    """Return the connected parts of a mask (H, W): 8-connected, or 4-connected without `corners`."""
    edges = np.diff(np.pad(mask.view(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    height, width = mask.shape
    owner = join(len(rows), *_touching(rows, starts, ends, width, corners))
    sizes = np.bincount(owner, ends - starts).astype(np.int64)
    return Components((height, width), rows, starts, ends, owner, sizes)


def _touching(rows: Ints, starts: Ints, ends: Ints, width: int, corners: bool) -> tuple[Ints, Ints]:
    """Return the pairs of runs, 2 x (p,), of which the second touches the first from the row below it."""
    begin, end = rows * (width + 2) + starts, rows * (width + 2) + ends
    below = width + 2
    first = np.searchsorted(end, begin + below, side="left" if corners else "right")
    after = np.searchsorted(begin, end + below, side="right" if corners else "left")
    count = np.maximum(after - first, 0)
    upper = np.repeat(np.arange(len(rows)), count)
    offset = np.arange(len(upper)) - np.repeat(np.cumsum(count) - count, count)
    return upper, np.repeat(first, count) + offset


def join(number: int, first: Ints, second: Ints) -> Ints:
    """Return the group of each of `number` things, (number,) from 0 in the order of their first things; of pairs that
    belong together, 2 x (p,)."""
    parent = np.arange(number)
    while len(first):
        roots = parent[first], parent[second]
        apart = roots[0] != roots[1]
        first, second = first[apart], second[apart]
        np.minimum.at(parent, np.maximum(*roots)[apart], np.minimum(*roots)[apart])
        while not np.array_equal(parent, grand := parent[parent]):
            parent = grand
    return np.unique(parent, return_inverse=True)[1].astype(np.int64)


def peak_of_area(anomaly_map: NDArray[np.float32], area: int, inside: Mask | None = None) -> float:
    """Return the value of a map (H, W) below which a threshold leaves a region of `area` pixels or more, and at which
    or above which it leaves none; of an image with fewer pixels, its lowest one. `inside` (H, W): what counts."""
    values = np.sort(anomaly_map if inside is None else anomaly_map[inside], axis=None)[::-1]

    def has_region(rank: int) -> bool:
        mask = anomaly_map >= values[rank]
        return bool(connected(mask if inside is None else mask & inside).sizes.max() >= area)

    last = len(values) - 1
    high = min(area - 1, last)
    low = high - 1  # no region at this rank; ranks grow until there is one
    while high < last and not has_region(high):
        low, high = high, min(2 * high + 1, last)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if has_region(middle) else (middle, high)
    return float(values[high])
