"""A histogram of scores that adapts to them, merges exactly, and never depends on the order of its input.

A *cell* is the top `bits` bits of the ordered key of a score; a row counts the scores of one cell in one stratum
(nominal pixels, anomalous pixels, regions of one size). Empty cells have no row, so scores bunched in a narrow range
get as many cells as scores spread over many octaves. All rows share one `bits`: the largest that keeps the table
within its budget. With 32 bits nothing is lost: every distinct score has its own row.

Why order cannot matter. More data never means fewer rows, so `bits` only falls; cells of fewer bits are unions of
cells of more; so the table is always the histogram of everything seen at the finest resolution that everything seen
allows, whichever way it was cut in batches or processes. All entries are int64 sums.

Votes. With bits cleared, a row also counts, for each cleared bit, the scores that had it set. They show when a cell
holds one exact value, or almost: scores unlike the cell's most common value differ from it in at least one bit, so
they number at most the sum of the bits' minorities. This keeps heavy ties exact in a coarse table.
"""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_ad.metrics.keys import KEY_BITS

Ints = NDArray[np.int64]

FIELD_BITS, FIELDS = 5, 12  # votes are added twelve to an int64; a field of 5 bits holds a sum of 31 scores
_LOWS = np.arange(1 << FIELDS, dtype=np.int64)[:, None]
_SPREAD: Ints = (((_LOWS >> np.arange(FIELDS)) & 1) << (FIELD_BITS * np.arange(FIELDS))).sum(axis=1)


@dataclass(frozen=True)
class Histogram:
    """Rows sorted by (stratum, cell), both empty at first."""

    strata: Ints  # (S,) sorted codes, whatever they mean to the caller
    cells: Ints  # (R,) sorted: index of the stratum << 32 | key with its lowest 32 - bits bits cleared
    counts: Ints  # (1, R), or (1 + 32 - bits, R) with votes
    bits: int = KEY_BITS
    votes: bool = False


def empty(votes: bool = False) -> Histogram:
    """The histogram of nothing."""
    return Histogram(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((1, 0), np.int64), votes=votes)


def absorb(histogram: Histogram, scores: dict[int, NDArray[np.uint32]], budget: int | None) -> Histogram:
    """The histogram, in `budget` rows, of what it holds and of `scores`: keys (n,) by stratum, sorted in place.

    `budget=None` keeps all 32 bits: exact, and growing with the number of distinct scores.
    """
    runs = {code: keys for code, keys in sorted(scores.items()) if len(keys)}
    if not runs:
        return histogram
    for keys in runs.values():
        keys.sort()
    bits = finest(list(runs.values()), histogram.bits, budget)
    tallies = [_tally(keys, bits, histogram.votes) for keys in runs.values()]
    cells = np.concatenate([(index << KEY_BITS) + cells for index, (cells, _) in enumerate(tallies)])
    counts = np.concatenate([counts for _, counts in tallies], axis=1)
    added = Histogram(np.array(list(runs), np.int64), cells, counts, bits, histogram.votes)
    return merge(histogram, added, budget)


def merge(a: Histogram, b: Histogram, budget: int | None) -> Histogram:
    """The histogram of everything in `a` and `b`."""
    if not len(a.cells) and a.bits == KEY_BITS:
        return fit(b, budget)
    if not len(b.cells) and b.bits == KEY_BITS:
        return fit(a, budget)
    bits = min(a.bits, b.bits)
    strata = np.union1d(a.strata, b.strata)
    a, b = (_restratify(coarsen(side, bits), strata) for side in (a, b))
    cells = distinct(np.concatenate([a.cells, b.cells]))
    counts = np.zeros((len(a.counts), len(cells)), np.int64)
    for side in (a, b):
        columns = np.searchsorted(cells, side.cells)
        for total, part in zip(counts, side.counts, strict=True):
            total[columns] += part
    return fit(Histogram(strata, cells, counts, bits, a.votes), budget)


def fit(histogram: Histogram, budget: int | None) -> Histogram:
    """The same at the finest resolution that a budget of rows allows."""
    return coarsen(histogram, finest([histogram.cells], histogram.bits, budget))


def finest(runs: list[NDArray[Any]], bits: int, budget: int | None) -> int:
    """The most bits, up to `bits`, with which the cells of these sorted keys number `budget` at most; at least 0."""

    def excess(bits: int) -> bool:
        rows = sum(1 + int(np.count_nonzero(_differs(keys, KEY_BITS - bits))) for keys in runs if len(keys))
        return budget is not None and rows > budget

    if not excess(bits):
        return bits
    return bisect_left(range(bits), True, lo=1, key=excess) - 1


def coarsen(histogram: Histogram, bits: int) -> Histogram:
    """The same with fewer bits to a cell; a bit that is cleared leaves its vote behind."""
    while histogram.bits > bits:
        bit = KEY_BITS - histogram.bits
        cells, counts = histogram.cells, histogram.counts
        if histogram.votes:
            counts = np.concatenate([counts, np.where((cells >> bit) & 1, counts[0], 0)[None]])
        parents = cells & ~np.int64((2 << bit) - 1)
        first = _starts(parents, 0)
        counts = np.add.reduceat(counts, first, axis=1) if len(first) else counts
        histogram = Histogram(histogram.strata, parents[first], counts, histogram.bits - 1, histogram.votes)
    return histogram


def _restratify(histogram: Histogram, strata: Ints) -> Histogram:
    """The same with `strata` (T,), sorted and holding all of its own, as its list of strata."""
    if np.array_equal(strata, histogram.strata):
        return histogram
    index = np.searchsorted(strata, histogram.strata)
    low = histogram.cells & np.int64((1 << KEY_BITS) - 1)
    cells = (index[histogram.cells >> KEY_BITS] << KEY_BITS) + low
    return Histogram(strata, cells, histogram.counts, histogram.bits, histogram.votes)


def rows(histogram: Histogram, codes: Ints) -> tuple[Ints, Ints, Ints]:
    """Rows of the strata in `codes`: codes (r,), cells (r,) without stratum, counts (C, r), by code, then by cell."""
    wanted = np.isin(histogram.strata, codes)
    keep = np.flatnonzero(wanted[histogram.cells >> KEY_BITS])
    cells = histogram.cells[keep]
    low = cells & np.int64((1 << KEY_BITS) - 1)
    return histogram.strata[cells >> KEY_BITS], low, histogram.counts[:, keep]


def total(cells: Ints, counts: NDArray[Any], onto: Ints) -> NDArray[Any]:
    """Sum of counts (C, r) over equal cells (r,), as (C, len(onto)) along the sorted cells `onto`."""
    sums = np.zeros((len(counts), len(onto)), counts.dtype)
    order = np.argsort(cells, kind="stable")
    first = _starts(cells[order], 0)
    if len(first):
        columns = np.searchsorted(onto, cells[order[first]])
        for row, part in zip(sums, counts, strict=True):
            row[columns] = np.add.reduceat(part[order], first)
    return sums


def _tally(keys: NDArray[np.uint32], bits: int, votes: bool) -> tuple[Ints, Ints]:
    """Cells (R,) and counts (1, R) or, with votes, (1 + 32 - bits, R) of sorted keys (n,)."""
    cleared = KEY_BITS - bits
    first = _starts(keys, cleared)
    cells = keys[first].astype(np.int64) & ~np.int64((1 << cleared) - 1)
    counts = np.diff(first, append=len(keys))
    if not votes or not cleared:
        return cells, counts[None]
    return cells, np.concatenate([counts[None], _bit_sums(keys, first, counts, cleared)])


def _bit_sums(keys: NDArray[np.uint32], first: Ints, counts: Ints, cleared: int) -> Ints:
    """How many keys of each segment have bit 0, 1, ..., cleared - 1 set: (cleared, R)."""
    most = (1 << FIELD_BITS) - 1
    pieces = -(-counts // most)  # segments are cut into pieces that no field of SPREAD overflows on
    owner = np.cumsum(pieces) - pieces
    starts = np.repeat(first, pieces) + most * (np.arange(pieces.sum()) - np.repeat(owner, pieces))
    sums = np.empty((cleared, len(first)), np.int64)
    for low in range(0, cleared, FIELDS):
        packed = np.add.reduceat(_SPREAD[(keys >> np.uint32(low)) & np.uint32((1 << FIELDS) - 1)], starts)
        for bit in range(low, min(low + FIELDS, cleared)):
            sums[bit] = np.add.reduceat((packed >> (FIELD_BITS * (bit - low))) & most, owner)
    return sums


def majority(counts: Ints, cleared: int) -> NDArray[np.bool_]:
    """Bits of the most common value of each cell, if it is common: (1 + cleared, R) -> (cleared, R)."""
    return 2 * counts[1 : 1 + cleared] > counts[:1]


def tied(counts: Ints, value: NDArray[np.bool_]) -> Ints:
    """At least how many scores of each cell equal `value` (cleared, R) exactly: (1 + cleared, R) -> (R,)."""
    unlike = np.where(value, counts[:1] - counts[1:], counts[1:]).sum(axis=0, dtype=np.int64)
    votes: Ints = np.maximum(counts[0] - unlike, 0)
    return votes


def distinct(keys: Ints) -> Ints:
    """Distinct keys (n,), ascending; `np.unique` takes several times as long."""
    keys = np.sort(keys)
    return keys[_starts(keys, 0)]


def _differs(keys: NDArray[Any], cleared: int) -> NDArray[np.bool_]:
    """Whether each of sorted keys (n,) after the first is in another cell than the one before it: (n - 1,)."""
    differs: NDArray[np.bool_] = (keys[1:] ^ keys[:-1]) >= (1 << cleared)
    return differs


def _starts(keys: NDArray[Any], cleared: int) -> Ints:
    """Where a new cell begins in sorted keys (n,)."""
    return np.concatenate([np.zeros(min(len(keys), 1), np.int64), np.flatnonzero(_differs(keys, cleared)) + 1])
