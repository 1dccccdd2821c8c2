"""Histograms of scores do not depend on order, batches or merging, and votes keep equal scores exact."""

from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_ad.metrics.histogram import Histogram, absorb, coarsen, count_tied, find_majority_bits, make_histogram, merge
from lit_ad.metrics.keys import encode_scores


def scores_of(seed: int, number: int) -> np.ndarray:
    """Return a mixture of scores that are close together, far apart and equal."""
    random = np.random.default_rng(seed)
    kinds = [
        random.standard_normal(number),
        random.uniform(0.979, 0.981, number),
        random.standard_normal(number) * 10.0 ** random.integers(-12, 7, number),
        np.full(number, random.standard_normal()),
    ]
    return np.choose(random.integers(0, len(kinds), number), kinds).astype(np.float32)


def same(a: Histogram, b: Histogram) -> bool:
    parts = ("strata", "cells", "counts")
    return a.bits == b.bits and all(np.array_equal(getattr(a, part), getattr(b, part)) for part in parts)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    number=st.integers(1, 3000),
    cuts=st.integers(0, 6),
    budget=st.sampled_from([3, 50, 700, None]),
    votes=st.booleans(),
)
def test_order_batches_and_merging_do_not_change_the_histogram(
    seed: int, number: int, cuts: int, budget: int, votes: bool
) -> None:
    scores, random = scores_of(seed, number), np.random.default_rng(seed + 1)
    strata = random.integers(0, 3, number) * 7
    order = random.permutation(number)

    def table(start: Histogram, part: np.ndarray) -> Histogram:
        parts = {int(code): encode_scores(scores[part][strata[part] == code]) for code in np.unique(strata[part])}
        return absorb(start, parts, budget)

    whole = table(make_histogram(votes), np.arange(number))
    pieces = np.array_split(order, cuts + 1)
    assert same(whole, reduce(table, pieces, make_histogram(votes)))
    processes = [reduce(table, pieces[rank::3], make_histogram(votes)) for rank in range(3)]
    for ranks in ((0, 1, 2), (2, 0, 1)):
        assert same(whole, reduce(lambda a, b: merge(a, b, budget), [processes[rank] for rank in ranks]))
    assert whole.counts[0].sum() == number
    assert budget is None or len(whole.cells) <= max(budget, 3)


def test_coarsening_in_steps_equals_counting_in_coarse_cells() -> None:
    keys = encode_scores(scores_of(0, 5000))
    fine = absorb(make_histogram(votes=True), {0: keys.copy()}, None)
    for bits in (31, 20, 9, 0):
        cells = keys.astype(np.int64) >> (32 - bits)
        distinct, inverse, counts = np.unique(cells, return_inverse=True, return_counts=True)
        table = coarsen(fine, bits)
        assert np.array_equal(table.cells, distinct << (32 - bits))
        assert np.array_equal(table.counts[0], counts)
        for bit in range(32 - bits):
            assert np.array_equal(table.counts[1 + bit], np.bincount(inverse, (keys >> bit) & 1))


def test_the_count_of_equal_scores_is_a_lower_bound() -> None:
    random = np.random.default_rng(0)
    for share in (0.0, 0.3, 0.9, 0.999, 1.0):
        scores = random.standard_normal(4000).astype(np.float32)
        scores[: int(4000 * share)] = 0.7
        table = absorb(make_histogram(votes=True), {0: encode_scores(scores)}, 40)
        key, low = int(encode_scores(np.array([0.7], np.float32))[0]), 32 - table.bits
        cell = table.cells == (key >> low) << low
        least = count_tied(table.counts, find_majority_bits(table.counts, 32 - table.bits))[cell].sum()
        equal = int((scores == np.float32(0.7)).sum())
        others = table.counts[0][cell].sum() - equal
        if share >= 0.9:
            assert equal - (32 - table.bits) * others <= least <= equal


def test_votes_of_more_scores_than_fit_into_a_field() -> None:
    keys = np.full(100_000, 0xFFFFFFFF, np.uint32)
    table = coarsen(absorb(make_histogram(votes=True), {0: keys}, None), 4)
    assert table.counts.tolist() == [[100_000]] * 29
    spread = np.arange(1 << 16, dtype=np.uint32)
    assert absorb(make_histogram(votes=True), {0: spread}, 1).counts.tolist() == [[1 << 16], *[[1 << 15]] * 16]


@pytest.mark.parametrize("budget", [None, 10])
def test_empty_histograms_stay_empty(budget: int | None) -> None:
    assert same(absorb(make_histogram(), {}, budget), make_histogram())
    assert same(merge(make_histogram(), make_histogram(), budget), make_histogram())
