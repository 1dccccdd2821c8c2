"""Statistics of several methods' scores: intervals of an AUROC, and tests of whether one method is better.

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


def compute_auroc_interval(nominal: Floats, anomalous: Floats, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of an image AUROC, averaged over runs, by the bootstrap.

    The ends are percentiles over resampled images. Nominal and anomalous images are resampled apart, and all runs get
    the same images.

    Args:
        nominal: (runs, n) scores.
        anomalous: (runs, m) scores of the same runs.
        seed: The seed of the resampling.

    Returns:
        The lower and the upper end; NaN with fewer than two nominal or two anomalous images.
    """
    if min(nominal.shape[1], anomalous.shape[1]) < 2:
        return math.nan, math.nan
    wins = np.zeros((nominal.shape[1], anomalous.shape[1]))  # the AUROC is the mean of this matrix (Mann and Whitney)
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
    """The comparison of two methods on the same tasks."""

    first: str
    second: str
    difference: float  # mean over tasks of first minus second
    p: float  # of Wilcoxon's signed-rank test, two-sided
    p_holm: float = math.nan  # p corrected by Holm


@dataclass
class Comparison:
    """The comparison of several methods on the tasks that all of them have finished."""

    tasks: list[str]
    ranks: dict[str, float]  # average rank over tasks by method; 1 is best
    friedman_p: float  # of Friedman's test that all methods are alike; NaN for two methods
    critical_difference: float  # between two average ranks, by Nemenyi
    pairs: list[Pair]


def compare(tasks: list[str], values: dict[str, list[float]]) -> Comparison | None:
    """Compare methods over tasks.

    Args:
        tasks: Names of the tasks.
        values: By method, a value for each task; higher is better.

    Returns:
        The comparison; None for fewer than two methods or tasks.
    """
    if len(values) < 2 or len(tasks) < 2:
        return None
    table = np.array(list(values.values()))  # (methods, tasks)
    ranks = stats.rankdata(-table, axis=0).mean(axis=1)
    p = float(stats.friedmanchisquare(*table).pvalue) if len(table) > 2 else math.nan
    pairs = [
        Pair(first, second, float(np.mean(np.subtract(values[first], values[second]))), _test_signed_rank(*samples))
        for first, second in combinations(values, 2)
        for samples in [(values[first], values[second])]
    ]
    for pair, corrected in zip(pairs, correct_by_holm([pair.p for pair in pairs]), strict=True):
        pair.p_holm = corrected
    named = {name: float(rank) for name, rank in zip(values, ranks, strict=True)}
    return Comparison(tasks, named, p, critical_difference(len(values), len(tasks)), pairs)


def _test_signed_rank(first: list[float], second: list[float]) -> float:
    """Return the p-value of Wilcoxon's signed-rank test; 1 if the two lists are equal."""
    return 1.0 if first == second else float(stats.wilcoxon(first, second).pvalue)


def correct_by_holm(p_values: list[float]) -> list[float]:
    """Return p-values corrected by Holm's step-down method (Scandinavian Journal of Statistics 6, 1979)."""
    corrected, so_far = [0.0] * len(p_values), 0.0
    for place, index in enumerate(np.argsort(p_values, kind="stable")):
        so_far = max(so_far, (len(p_values) - place) * p_values[index])
        corrected[index] = min(1.0, so_far)
    return corrected


def critical_difference(methods: int, tasks: int) -> float:
    """Return the least difference of two average ranks that is significant at the level of 0.05 (Nemenyi)."""
    q = stats.studentized_range.ppf(1 - _LEVEL, methods, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(methods * (methods + 1) / (6 * tasks)))
