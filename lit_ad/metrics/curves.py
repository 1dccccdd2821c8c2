"""Areas under curves, from counts per cell of scores, with bounds on what scores inside a cell may hide.

Everywhere: `nominal` and `anomalous` (..., R) count pixels (or images, or bootstrap weights) cell by cell, by ascending
score. Scores of one cell count as tied, which is exact when the cell holds one value. `nominal_tied` and
`anomalous_tied` say how many scores of a cell are known to be equal; the rest may lie anywhere in the cell, so that
the true curve runs between the curves of the luckiest and the unluckiest order. Undefined values are nan.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64] | NDArray[np.float64]
Floats = NDArray[np.float64]

ROUNDING = 1e-12  # more than float64 sums over all cells lose; part of every bound


def cumulated(counts: Counts) -> Floats:
    """How much lies at or above each cell, from the highest score down, starting with 0: (..., R) -> (..., R + 1)."""
    sums = np.zeros((*counts.shape[:-1], counts.shape[-1] + 1))
    np.cumsum(counts[..., ::-1], axis=-1, out=sums[..., 1:])
    return sums


def area(x: Floats, y: Floats, limit: float = 1.0) -> Floats:
    """Area under the line through points with x ascending to 1, up to x = limit, 2 x (..., n) -> (...); nan if x or
    y is."""
    width = np.diff(x)
    inside = np.clip((limit - x[..., :-1]) / np.where(width > 0, width, 1), 0, 1)  # the part of each step that counts
    rise = np.diff(y) * inside
    total = np.sum(np.where(width > 0, width * inside * (y[..., :-1] + rise / 2), 0), axis=-1)
    return np.where(np.isnan(x[..., -1] + y[..., -1]), np.nan, total)


def share(counts: Floats) -> Floats:
    """Cumulated counts as fractions of their total; nan when that is 0: (..., n) -> (..., n)."""
    total = counts[..., -1:]
    return np.where(total > 0, counts / np.where(total > 0, total, 1), np.nan)


def roc(nominal: Counts, anomalous: Counts, points: int = 1000) -> tuple[Floats, Floats]:
    """False and true positive rates to draw, from (0, 0) to (1, 1), at most `points` of them: 2 x (R,) -> 2 x (n,)."""
    false, true = share(cumulated(nominal)), share(cumulated(anomalous))
    wanted = np.linspace(0, 1, points // 2)  # evenly along both axes
    chosen = np.union1d(np.searchsorted(false, wanted), np.searchsorted(true, wanted)).clip(0, len(false) - 1)
    return false[np.union1d(chosen, [0])], true[np.union1d(chosen, [0])]


def auroc(nominal: Counts, anomalous: Counts, max_fpr: float = 1.0) -> Floats:
    """Area under the ROC curve; below max_fpr = 1 standardised to [0, 1] with chance at 0.5 (McClish 1989)."""
    return standardised(area(share(cumulated(nominal)), share(cumulated(anomalous)), max_fpr), max_fpr)


def standardised(partial: Floats, max_fpr: float) -> Floats:
    """Partial ROC area -> 0.5 for chance, 1 for perfect, as scikit-learn's `roc_auc_score(max_fpr=...)`."""
    if max_fpr == 1:
        return partial
    chance = max_fpr**2 / 2
    return (1 + (partial - chance) / (max_fpr - chance)) / 2


def average_precision(nominal: Counts, anomalous: Counts) -> Floats:
    """Precision at each threshold weighted by the recall it adds."""
    false, true = cumulated(nominal)[..., 1:], cumulated(anomalous)
    positives, true = true[..., -1], true[..., 1:]
    precision = true / np.maximum(true + false, 1)
    precisions = np.sum(anomalous[..., ::-1] * precision, axis=-1)
    return (
        np.where((positives > 0) & (false[..., -1] > 0), precisions / np.maximum(positives, 1), np.nan)
        if true.size
        else nan(positives)
    )


def f1_max(nominal: Counts, anomalous: Counts) -> Floats:
    """The best F1 over all thresholds."""
    false, true = cumulated(nominal), cumulated(anomalous)
    positives = true[..., -1:]
    best = np.max(2 * true / np.maximum(true + false + positives, 1), axis=-1)
    return np.where((positives[..., 0] > 0) & (false[..., -1] > 0), best, np.nan)


def nan(like: Floats) -> Floats:
    """nan in the shape of `like`."""
    return np.full_like(like, np.nan)


def extremes(nominal: Counts, anomalous: Counts, nominal_tied: Counts, anomalous_tied: Counts) -> list[tuple[Any, ...]]:
    """Counts (3 R,) in the luckiest and the unluckiest order of the scores that share a cell, 4 x (R,)."""
    free, zero = (nominal - nominal_tied, anomalous - anomalous_tied), np.zeros_like(nominal)
    steps = [(free[0], zero), (nominal_tied, anomalous_tied), (zero, free[1])]  # ascending score: nominal ones low
    orders = (steps, steps[::-1])
    return [tuple(np.stack(counts, axis=-1).reshape(-1) for counts in zip(*order, strict=True)) for order in orders]


def error_bound(metric: Callable[..., Floats], nominal: Counts, anomalous: Counts, *ties: Counts) -> float:
    """How far `metric`, any that only gains when the curve rises, can be from its value on the scores themselves."""
    value = metric(nominal, anomalous)
    best, worst = (metric(*order) for order in extremes(nominal, anomalous, *ties))
    return float(np.maximum(best - value, value - worst)) + ROUNDING


def f1_max_error_bound(nominal: Counts, anomalous: Counts, *ties: Counts) -> float:
    """How much more a threshold inside a cell could give; thresholds between cells are all seen already."""
    best, _ = extremes(nominal, anomalous, *ties)
    return float(f1_max(*best) - f1_max(nominal, anomalous)) + ROUNDING


def average_precision_error_bound(
    nominal: Counts, anomalous: Counts, nominal_tied: Counts, anomalous_tied: Counts
) -> float:
    """The same for average precision, from the highest and lowest precision each anomalous score can have."""
    false, true = cumulated(nominal)[::-1], cumulated(anomalous)[::-1]
    if not len(nominal) or not true[0] or not false[0]:
        return float("nan")
    (false_above, false), (true_above, true) = (false[1:], false[:-1]), (true[1:], true[:-1])
    free = anomalous - anomalous_tied
    certain = np.minimum(false_above + nominal_tied, false)
    tied_high, tied_low = true / np.maximum(true + certain, 1), true_above + anomalous_tied
    high = anomalous_tied * tied_high + free * true / np.maximum(true + false_above, 1)
    low = anomalous_tied * tied_low / np.maximum(tied_low + false, 1)
    low += free * (true_above + 1) / np.maximum(true_above + 1 + false, 1)
    value = anomalous * true / np.maximum(true + false, 1)
    return float(np.maximum(np.sum(high - value), np.sum(value - low)) / true[0]) + ROUNDING
