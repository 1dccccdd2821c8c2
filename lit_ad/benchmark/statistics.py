"""What the scores of several methods allow to say: intervals of an AUROC, and whether one method is the better one.

Means, deviations and tests are NumPy's and SciPy's. The comparison over tasks is that of Demsar, "Statistical
Comparisons of Classifiers over Multiple Data Sets", JMLR 7, 2006: average ranks, Nemenyi's critical difference, and
Wilcoxon's signed-rank test of each pair, its p-values corrected by Holm.
"""

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

_LEVEL = 0.05
_RESAMPLES = 1000

Floats = NDArray[np.float64]


def auroc_interval(nominal: Floats, anomalous: Floats, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean over runs of an image AUROC: percentiles over resampled images, the nominal and the
    anomalous ones apart, the same images for all runs. nan of fewer than two of either.

    Args:
        nominal: (runs, n) scores.
        anomalous: (runs, m) scores of the same runs.
        seed: Of the resampling.
    """
    if min(nominal.shape[1], anomalous.shape[1]) < 2:
        return math.nan, math.nan
    wins = np.zeros((nominal.shape[1], anomalous.shape[1]))  # an AUROC is the mean of these (Mann and Whitney)
    for low, high in zip(nominal, anomalous, strict=True):
        wins += ((high > low[:, None]) + 0.5 * (high == low[:, None])) / len(nominal)
    n, m = wins.shape

    def mean_auroc(i: NDArray[np.int64], j: NDArray[np.int64]) -> float:
        return float(np.bincount(i, minlength=n) @ wins @ np.bincount(j, minlength=m)) / (n * m)

    interval = stats.bootstrap(
        (np.arange(n), np.arange(m)),
        mean_auroc,
        n_resamples=_RESAMPLES,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


@dataclass
class Pair:
    """Two methods over the same tasks."""

    first: str
    second: str
    difference: float  # mean of first minus second
    p: float  # Wilcoxon's, two-sided
    p_holm: float = math.nan


@dataclass
class Comparison:
    """Methods over the tasks that all of them have."""

    tasks: list[str]
    ranks: dict[str, float]  # average over tasks; 1 is best
    friedman_p: float  # of "all are alike"; nan of two methods
    critical_difference: float  # of two average ranks, by Nemenyi
    pairs: list[Pair]


def compare(tasks: list[str], values: dict[str, list[float]]) -> Comparison | None:
    """None of fewer than two methods or tasks.

    Args:
        tasks: Names.
        values: A value for each task, more is better, by method.
    """
    if len(values) < 2 or len(tasks) < 2:
        return None
    table = np.array(list(values.values()))  # (methods, tasks)
    ranks = stats.rankdata(-table, axis=0).mean(axis=1)
    p = float(stats.friedmanchisquare(*table).pvalue) if len(table) > 2 else math.nan
    pairs = [
        Pair(first, second, float(np.mean(np.subtract(values[first], values[second]))), _signed_rank(*samples))
        for first, second in combinations(values, 2)
        for samples in [(values[first], values[second])]
    ]
    for pair, corrected in zip(pairs, holm([pair.p for pair in pairs]), strict=True):
        pair.p_holm = corrected
    named = {name: float(rank) for name, rank in zip(values, ranks, strict=True)}
    return Comparison(tasks, named, p, critical_difference(len(values), len(tasks)), pairs)


def _signed_rank(first: list[float], second: list[float]) -> float:
    """p-value of Wilcoxon's signed-rank test; 1 of values that are all alike."""
    return 1.0 if first == second else float(stats.wilcoxon(first, second).pvalue)


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down correction (Scandinavian Journal of Statistics 6, 1979)."""
    corrected, so_far = [0.0] * len(p_values), 0.0
    for place, index in enumerate(np.argsort(p_values, kind="stable")):
        so_far = max(so_far, (len(p_values) - place) * p_values[index])
        corrected[index] = min(1.0, so_far)
    return corrected


def critical_difference(methods: int, tasks: int) -> float:
    """By how much two average ranks must differ at the level of 0.05 (Nemenyi)."""
    q = stats.studentized_range.ppf(1 - _LEVEL, methods, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(methods * (methods + 1) / (6 * tasks)))
