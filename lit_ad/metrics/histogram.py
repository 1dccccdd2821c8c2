"""A histogram of scores that adapts to them, merges exactly, and never depends on the order of its input.

A *cell* is the set of scores whose ordered keys have the same top `bits` bits (the ordered key of a float32 score is a
uint32 with the same order, see `keys`). A row counts the scores of one cell in one *stratum* (nominal pixels, anomalous
pixels, or regions of one size). Empty cells have no row, so scores in a narrow range get as many cells as scores over
many octaves. All rows have the same `bits`: the largest number that keeps the table within its budget of rows. With 32
bits nothing is lost: every distinct score has its own row.

Why the order does not matter: more data never needs fewer rows, so `bits` only falls, and cells of fewer bits are
unions of cells of more bits. So the table is always the histogram of all data, at the finest resolution that all data
allow, however the data were cut into batches or processes. All entries are int64 sums.

*Votes* show whether a cell holds (almost) one value. For each cleared bit (each of a key's lowest 32 - `bits` bits), a
row can also count the scores with a 1 there. Of a bit's two groups, the scores with a 1 and those with a 0, the smaller
is its minority. A score that differs from the cell's most common value differs in at least one bit, and so belongs to
the minority of that bit. So all scores of the cell but at most the sum of its minorities are equal (`count_tied`), and
are known to be ties although the cell is wide.
"""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_ad.metrics.keys import KEY_BITS

Ints = NDArray[np.int64]

FIELD_BITS, FIELDS = 5, 12  # twelve votes share an int64 while they are added; 5 bits hold the sum of 31 scores
_BLOCK = 1 << 15  # the number of keys in a block of `_spread`
_LOWS = np.arange(1 << FIELDS, dtype=np.int64)[:, None]
_SPREAD: Ints = (((_LOWS >> np.arange(FIELDS)) & 1) << (FIELD_BITS * np.arange(FIELDS))).sum(axis=1)


@dataclass(frozen=True)
class Histogram:
    """A table of R rows, sorted by stratum and cell."""

    strata: Ints  # (S,) sorted: the code of each stratum, whose meaning is the caller's
    cells: Ints  # (R,) sorted: index of the stratum << 32 | key whose lowest 32 - bits bits are cleared
    counts: Ints  # (1, R); with votes (1 + 32 - bits, R)
    bits: int = KEY_BITS
    votes: bool = False


def make_histogram(votes: bool = False) -> Histogram:
    """Return a histogram without rows."""
    return Histogram(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((1, 0), np.int64), votes=votes)


def absorb(histogram: Histogram, scores: dict[int, NDArray[np.uint32]], budget: int | None) -> Histogram:
    """Return a histogram with scores added.

    Args:
        histogram: The histogram so far.
        scores: The ordered keys (n,) for the code of each stratum. They are sorted in place.
        budget: The most rows of the result. None: it keeps all 32 bits, and has a row for each distinct score.
    """
    runs = {code: keys for code, keys in sorted(scores.items()) if len(keys)}
    if not runs:
        return histogram
    for keys in runs.values():
        keys.sort()
    bits = _find_finest_bits(list(runs.values()), histogram.bits, budget)
    tallies = [_tally(keys, bits, histogram.votes) for keys in runs.values()]
    cells = np.concatenate([(index << KEY_BITS) + cells for index, (cells, _) in enumerate(tallies)])
    counts = np.concatenate([counts for _, counts in tallies], axis=1)
    added = Histogram(np.array(list(runs), np.int64), cells, counts, bits, histogram.votes)
    return merge(histogram, added, budget)


def merge(a: Histogram, b: Histogram, budget: int | None) -> Histogram:
    """Return the histogram of all scores of two histograms, in at most `budget` rows."""
    if not len(a.cells) and a.bits == KEY_BITS:
        return _fit_budget(b, budget)
    if not len(b.cells) and b.bits == KEY_BITS:
        return _fit_budget(a, budget)
    bits = min(a.bits, b.bits)
    strata = np.union1d(a.strata, b.strata)
    a, b = (_restratify(coarsen(side, bits), strata) for side in (a, b))
    cells = sort_distinct(np.concatenate([a.cells, b.cells]))
    counts = np.zeros((len(a.counts), len(cells)), np.int64)
    places = [np.searchsorted(cells, side.cells) for side in (a, b)]
    for total, first, second in zip(counts, a.counts, b.counts, strict=True):
        total[places[0]] = first
        total[places[1]] += second
    return _fit_budget(Histogram(strata, cells, counts, bits, a.votes), budget)


def _fit_budget(histogram: Histogram, budget: int | None) -> Histogram:
    """Return a histogram at the finest resolution that a budget of rows allows."""
    return coarsen(histogram, _find_finest_bits([histogram.cells], histogram.bits, budget))


def _find_finest_bits(runs: list[NDArray[Any]], bits: int, budget: int | None) -> int:
    """Return the most bits, from 0 to `bits`, with which these sorted keys have at most `budget` cells."""

    if budget is None:
        return bits
    steps = [keys[1:] ^ keys[:-1] for keys in runs if len(keys)]  # computed once, for all numbers of bits

    def exceeds_budget(bits: int) -> bool:
        return sum(1 + int(np.count_nonzero(step >= 1 << (KEY_BITS - bits))) for step in steps) > budget

    if not exceeds_budget(bits):
        return bits
    return bisect_left(range(bits), True, lo=1, key=exceeds_budget) - 1


def coarsen(histogram: Histogram, bits: int) -> Histogram:
    """Return a histogram whose cells have at most `bits` bits. Each bit that is cleared becomes a vote."""
    while histogram.bits > bits:
        bit = KEY_BITS - histogram.bits
        cells, counts = histogram.cells, histogram.counts
        if histogram.votes:
            counts = np.concatenate([counts, np.where((cells >> bit) & 1, counts[0], 0)[None]])
        parents = cells & ~np.int64((2 << bit) - 1)
        first = _find_cell_starts(parents, 0)
        counts = np.add.reduceat(counts, first, axis=1) if len(first) else counts
        histogram = Histogram(histogram.strata, parents[first], counts, histogram.bits - 1, histogram.votes)
    return histogram


def _restratify(histogram: Histogram, strata: Ints) -> Histogram:
    """Return a histogram with the sorted `strata` (T,) as its strata, which include all of its present strata."""
    if np.array_equal(strata, histogram.strata):
        return histogram
    index = np.searchsorted(strata, histogram.strata)
    low = histogram.cells & np.int64((1 << KEY_BITS) - 1)
    cells = (index[histogram.cells >> KEY_BITS] << KEY_BITS) + low
    return Histogram(strata, cells, histogram.counts, histogram.bits, histogram.votes)


def select_rows(histogram: Histogram, codes: Ints) -> tuple[Ints, Ints, Ints]:
    """Return the rows of some strata, by code and cell: codes (r,), cells (r,) without stratum, counts (C, r)."""
    wanted = np.isin(histogram.strata, codes)
    keep = np.flatnonzero(wanted[histogram.cells >> KEY_BITS])
    cells = histogram.cells[keep]
    low = cells & np.int64((1 << KEY_BITS) - 1)
    return histogram.strata[cells >> KEY_BITS], low, histogram.counts[:, keep]


def sum_by_cell(cells: Ints, counts: NDArray[Any], onto: Ints) -> NDArray[Any]:
    """Add up the counts (C, r) of equal cells (r,), for each of the sorted cells `onto` (n,): (C, n)."""
    sums = np.zeros((len(counts), len(onto)), counts.dtype)
    order = np.argsort(cells, kind="stable")
    first = _find_cell_starts(cells[order], 0)
    if len(first):
        columns = np.searchsorted(onto, cells[order[first]])
        for row, part in zip(sums, counts, strict=True):
            row[columns] = np.add.reduceat(part[order], first)
    return sums


def _tally(keys: NDArray[np.uint32], bits: int, votes: bool) -> tuple[Ints, Ints]:
    """Return the cells (R,) of sorted keys (n,), and their counts (1, R), or (1 + 32 - bits, R) with votes."""
    cleared = KEY_BITS - bits
    first = _find_cell_starts(keys, cleared)
    cells = keys[first].astype(np.int64) & ~np.int64((1 << cleared) - 1)
    counts = np.diff(first, append=len(keys))
    if not votes or not cleared:
        return cells, counts[None]
    return cells, np.concatenate([counts[None], _sum_bits(keys, first, counts, cleared)])


def _sum_bits(keys: NDArray[np.uint32], first: Ints, counts: Ints, cleared: int) -> Ints:
    """Return how many keys of each segment have bit 0, 1, ..., cleared - 1 set: (cleared, R)."""
    most = (1 << FIELD_BITS) - 1
    pieces = -(-counts // most)  # segments are cut into pieces so short that no field of _SPREAD overflows
    owner = np.cumsum(pieces) - pieces
    starts = np.repeat(first, pieces) + most * (np.arange(pieces.sum()) - np.repeat(owner, pieces))
    sums = np.empty((cleared, len(first)), np.int64)
    for low in range(0, cleared, FIELDS):
        packed = np.add.reduceat(_spread(keys, low), starts)
        for bit in range(low, min(low + FIELDS, cleared)):
            sums[bit] = np.add.reduceat((packed >> (FIELD_BITS * (bit - low))) & most, owner)
    return sums


def _spread(keys: NDArray[np.uint32], low: int) -> Ints:
    """Return, for each key, FIELDS of its bits from bit `low` on, each in a field of its own: (n,) -> (n,).

    Blocks of keys stay in the processor's cache, which takes half the time.
    """
    spread = np.empty(len(keys), np.int64)
    for start in range(0, len(keys), _BLOCK):
        block = slice(start, start + _BLOCK)
        spread[block] = _SPREAD[(keys[block] >> np.uint32(low)) & np.uint32((1 << FIELDS) - 1)]
    return spread


def find_majority_bits(counts: Ints, cleared: int) -> NDArray[np.bool_]:
    """Return, for each cell, the bits that most of its scores have: (1 + cleared, R) -> (cleared, R).

    If more than half of a cell's scores are equal, these are the bits of their value.
    """
    return 2 * counts[1 : 1 + cleared] > counts[:1]


def count_tied(counts: Ints, value: NDArray[np.bool_]) -> Ints:
    """Return a lower bound of how many scores of each cell equal `value` (cleared, R): (1 + cleared, R) -> (R,)."""
    different = np.where(value, counts[:1] - counts[1:], counts[1:]).sum(axis=0, dtype=np.int64)
    equal: Ints = np.maximum(counts[0] - different, 0)
    return equal


def sort_distinct(keys: Ints) -> Ints:
    """Return the distinct keys (n,), ascending. `np.unique` takes several times as long."""
    keys = np.sort(keys)
    return keys[_find_cell_starts(keys, 0)]


def _changes_cell(keys: NDArray[Any], cleared: int) -> NDArray[np.bool_]:
    """Return whether each of sorted keys (n,) after the first is in another cell than the previous one: (n - 1,)."""
    differs: NDArray[np.bool_] = (keys[1:] ^ keys[:-1]) >= (1 << cleared)
    return differs


def _find_cell_starts(keys: NDArray[Any], cleared: int) -> Ints:
    """Return the places in sorted keys (n,) at which a cell begins."""
    return np.concatenate([np.zeros(min(len(keys), 1), np.int64), np.flatnonzero(_changes_cell(keys, cleared)) + 1])
