"""Areas under curves, from counts of scores in cells, with bounds of the error that cells cause.

Scores are counted in bins, here called cells (see `histogram`), so a metric is not exact. The functions `bound_...`
return how far it can be from the exact value.

In all functions, `nominal` and `anomalous` (..., R) count pixels (or images, or bootstrap weights) in each of R cells,
by ascending score. Scores of one cell count as equal, which is exact if the cell holds one value. `nominal_tied` and
`anomalous_tied` are the numbers of scores of a cell that are known to be equal. The others may lie anywhere in the
cell, so the true curve lies between the curves of their best and their worst order. In the best order, the other
nominal scores of a cell lie below its anomalous ones; in the worst, above.
Undefined values are NaN.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64] | NDArray[np.float64]
Floats = NDArray[np.float64]

ROUNDING = 1e-12  # more than the rounding error of float64 sums over all cells; every bound includes it


def _cumulate(counts: Counts) -> Floats:
    """Return the counts at or above each cell, from the highest cell down, with a 0 first: (..., R) -> (..., R + 1)."""
    sums = np.zeros((*counts.shape[:-1], counts.shape[-1] + 1))
    np.cumsum(counts[..., ::-1], axis=-1, out=sums[..., 1:])
    return sums


def measure_area_under(x: Floats, y: Floats, limit: float = 1.0) -> Floats:
    """Return the area under the line through points, up to x = limit: 2 x (..., n) -> (...). x ascends to 1. NaN if x
    or y is NaN."""
    width = np.diff(x)
    inside = np.clip((limit - x[..., :-1]) / np.where(width > 0, width, 1), 0, 1)  # the part of each step that counts
    rise = np.diff(y) * inside
    total = np.sum(np.where(width > 0, width * inside * (y[..., :-1] + rise / 2), 0), axis=-1)
    return np.where(np.isnan(x[..., -1] + y[..., -1]), np.nan, total)


def cumulate_shares(counts: Counts) -> Floats:
    """Return `_cumulate(counts)` as shares of the total: (..., R) -> (..., R + 1). NaN if the total is 0."""
    sums = _cumulate(counts)
    total = sums[..., -1:]
    return np.where(total > 0, sums / np.where(total > 0, total, 1), np.nan)


def roc(nominal: Counts, anomalous: Counts, points: int = 1000) -> tuple[Floats, Floats]:
    """Return the ROC curve for drawing: at most `points` false and true positive rates (n,), from (0, 0) to (1, 1).
    Inputs: two arrays (R,)."""
    false, true = cumulate_shares(nominal), cumulate_shares(anomalous)
    wanted = np.linspace(0, 1, points // 2)  # evenly along both axes
    chosen = np.union1d(np.searchsorted(false, wanted), np.searchsorted(true, wanted)).clip(0, len(false) - 1)
    return false[np.union1d(chosen, [0])], true[np.union1d(chosen, [0])]


def auroc(nominal: Counts, anomalous: Counts, max_fpr: float = 1.0) -> Floats:
    """Return the area under the ROC curve up to `max_fpr`, standardised if it is below 1 (McClish 1989): 0.5 is
    chance."""
    return _standardise(measure_area_under(cumulate_shares(nominal), cumulate_shares(anomalous), max_fpr), max_fpr)


def _standardise(partial: Floats, max_fpr: float) -> Floats:
    """Scale a partial ROC area so that chance is 0.5 and perfect is 1, as scikit-learn's `roc_auc_score(max_fpr=...)`
    does."""
    if max_fpr == 1:
        return partial
    chance = max_fpr**2 / 2
    return (1 + (partial - chance) / (max_fpr - chance)) / 2


def average_precision(nominal: Counts, anomalous: Counts) -> Floats:
    """Return the average precision: the precision at each threshold, weighted by the recall that it adds."""
    false, true = _cumulate(nominal)[..., 1:], _cumulate(anomalous)
    positives, true = true[..., -1], true[..., 1:]
    precision = true / np.maximum(true + false, 1)
    precisions = np.sum(anomalous[..., ::-1] * precision, axis=-1)
    return (
        np.where((positives > 0) & (false[..., -1] > 0), precisions / np.maximum(positives, 1), np.nan)
        if true.size
        else _fill_with_nan(positives)
    )


def f1_max(nominal: Counts, anomalous: Counts) -> Floats:
    """Return the highest F1 over all thresholds."""
    false, true = _cumulate(nominal), _cumulate(anomalous)
    positives = true[..., -1:]
    best = np.max(2 * true / np.maximum(true + false + positives, 1), axis=-1)
    return np.where((positives[..., 0] > 0) & (false[..., -1] > 0), best, np.nan)


def _fill_with_nan(values: Floats) -> Floats:
    """Return NaN in the shape of `values`."""
    return np.full_like(values, np.nan)


def _order_extremes(
    nominal: Counts, anomalous: Counts, nominal_tied: Counts, anomalous_tied: Counts
) -> list[tuple[Any, ...]]:
    """Split each cell into three, and return the counts (3 R,) for the best and for the worst order. Inputs: four
    arrays (R,).

    In the best order, nominal scores that are not tied are the lowest of a cell, and anomalous ones the highest.
    """
    free, zero = (nominal - nominal_tied, anomalous - anomalous_tied), np.zeros_like(nominal)
    steps = [(free[0], zero), (nominal_tied, anomalous_tied), (zero, free[1])]  # by ascending score
    orders = (steps, steps[::-1])
    return [tuple(np.stack(counts, axis=-1).reshape(-1) for counts in zip(*order, strict=True)) for order in orders]


def bound_error(metric: Callable[..., Floats], nominal: Counts, anomalous: Counts, *ties: Counts) -> float:
    """Return an upper bound of the error that cells cause in a metric.

    The metric must be monotone: a higher curve never gives a lower value.
    """
    value = metric(nominal, anomalous)
    best, worst = (metric(*order) for order in _order_extremes(nominal, anomalous, *ties))
    return float(np.maximum(best - value, value - worst)) + ROUNDING


def bound_f1_max_error(nominal: Counts, anomalous: Counts, *ties: Counts) -> float:
    """Return an upper bound of the error that cells cause in `f1_max`: a threshold inside a cell may raise F1."""
    best, _ = _order_extremes(nominal, anomalous, *ties)
    return float(f1_max(*best) - f1_max(nominal, anomalous)) + ROUNDING


def bound_average_precision_error(
    nominal: Counts, anomalous: Counts, nominal_tied: Counts, anomalous_tied: Counts
) -> float:
    """Return an upper bound of the error that cells cause in `average_precision`, from the highest and the lowest
    precision that each anomalous score can have."""
    false, true = _cumulate(nominal)[::-1], _cumulate(anomalous)[::-1]  # (R + 1,): scores at or above each cell; then 0
    if not len(nominal) or not true[0] or not false[0]:
        return float("nan")
    # (R,): nominal (false) and anomalous (true) scores above each cell, and those at or above it.
    (false_above, false), (true_above, true) = (false[1:], false[:-1]), (true[1:], true[:-1])
    free = anomalous - anomalous_tied
    certain = np.minimum(false_above + nominal_tied, false)  # nominal scores surely not below the tied value
    tied_high, tied_low = true / np.maximum(true + certain, 1), true_above + anomalous_tied
    # The highest precision: all anomalous scores of the cell count, and only those nominal ones that must.
    high = anomalous_tied * tied_high + free * true / np.maximum(true + false_above, 1)
    # The lowest precision: all nominal scores of the cell count, and only those anomalous ones that must.
    low = anomalous_tied * tied_low / np.maximum(tied_low + false, 1)
    low += free * (true_above + 1) / np.maximum(true_above + 1 + false, 1)
    value = anomalous * true / np.maximum(true + false, 1)
    return float(np.maximum(np.sum(high - value), np.sum(value - low)) / true[0]) + ROUNDING
