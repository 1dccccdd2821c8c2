"""Areas under curves from counts equal those of scikit-learn from scores."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from lit_ad.metrics import curves

CELLS = 12
COUNTS = st.lists(st.integers(0, 3), min_size=CELLS, max_size=CELLS).map(np.array)


def best_f1(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the highest F1 over all thresholds, one by one."""
    values = [np.array([labels[scores >= t].sum(), (scores >= t).sum()]) for t in np.unique(scores)]
    return float(max(2 * hits / (found + labels.sum()) for hits, found in values))


Curve = Callable[..., Any]
METRICS: dict[str, tuple[Curve, Curve, Curve]] = {  # ours, the reference, and what hidden scores may change
    "auroc": (curves.auroc, roc_auc_score, lambda *c: curves.bound_error(curves.auroc, *c)),
    "partial": (
        lambda n, a: curves.auroc(n, a, 0.3),
        lambda y, s: roc_auc_score(y, s, max_fpr=0.3),
        lambda *c: curves.bound_error(lambda n, a: curves.auroc(n, a, 0.3), *c),
    ),
    "average precision": (
        curves.average_precision,
        average_precision_score,
        curves.bound_average_precision_error,
    ),
    "f1": (curves.f1_max, best_f1, curves.bound_f1_max_error),
}


def expand(nominal: np.ndarray, anomalous: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and scores, one for each count."""
    cells = np.arange(len(nominal))
    labels = np.repeat([0, 1], [nominal.sum(), anomalous.sum()])
    return labels, np.concatenate([np.repeat(cells, nominal), np.repeat(cells, anomalous)])


@pytest.mark.parametrize("name", METRICS)
@settings(deadline=None, max_examples=60)
@given(nominal=COUNTS, anomalous=COUNTS)
def test_counts_give_the_values_of_scores(name: str, nominal: np.ndarray, anomalous: np.ndarray) -> None:
    ours, reference, _ = METRICS[name]
    value = ours(nominal, anomalous)
    if nominal.sum() and anomalous.sum():
        assert value == pytest.approx(reference(*expand(nominal, anomalous)), abs=1e-12)
    else:
        assert np.isnan(value)


@pytest.mark.parametrize("name", METRICS)
@settings(deadline=None, max_examples=60)
@given(nominal=COUNTS, anomalous=COUNTS)
def test_hidden_scores_lie_within_the_bound(name: str, nominal: np.ndarray, anomalous: np.ndarray) -> None:
    """Three scores fall into each cell, and none are known to be equal."""
    assume(nominal.sum() and anomalous.sum())
    ours, _, bound = METRICS[name]
    coarse = [counts.reshape(-1, 3).sum(axis=1) for counts in (nominal, anomalous)]
    unknown = np.zeros_like(coarse[0])
    hidden = abs(float(ours(nominal, anomalous)) - float(ours(*coarse)))
    assert hidden <= bound(*coarse, unknown, unknown)
    assert bound(*coarse, *coarse) == pytest.approx(0, abs=1e-9)  # all that share a cell are equal


def test_many_curves_at_once_equal_single_ones() -> None:
    nominal, anomalous = np.random.default_rng(0).integers(0, 4, (2, 5, CELLS))
    for ours, *_ in METRICS.values():
        alone = [ours(n, a) for n, a in zip(nominal, anomalous, strict=True)]
        np.testing.assert_array_equal(ours(nominal, anomalous), alone)


@pytest.mark.parametrize(("limit", "expected"), [(1.0, 0.75), (0.5, 0.25), (0.25, 0.0625), (0.75, 0.5)])
def test_area_up_to_a_limit_by_hand(limit: float, expected: float) -> None:
    x, y = np.array([0.0, 0.5, 1.0]), np.array([0.0, 1.0, 1.0])
    assert curves.measure_area_under(x, y, limit) == pytest.approx(expected)
    assert np.isnan(curves.measure_area_under(x, y + np.nan, limit))


def test_a_curve_for_drawing_has_both_ends_and_few_points() -> None:
    nominal, anomalous = np.random.default_rng(0).integers(0, 9, (2, 50_000))
    false, true = curves.roc(nominal, anomalous, points=100)
    assert len(false) == len(true) <= 100
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert (np.diff(false) >= 0).all() and (np.diff(true) >= 0).all()
    assert curves.measure_area_under(false, true) == pytest.approx(float(curves.auroc(nominal, anomalous)), abs=1e-3)
