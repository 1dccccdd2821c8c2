"""The statistics of a benchmark against scikit-learn's, SciPy's, and tables of the literature."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from lit_ad.benchmark.statistics import compare, compute_auroc_interval, correct_by_holm, critical_difference


def test_the_interval_is_that_of_scikit_learn_on_the_same_resamples() -> None:
    generator = np.random.default_rng(1)
    nominal, anomalous = generator.normal(0, 1, (2, 15)).round(1), generator.normal(1, 1, (2, 12)).round(1)
    labels = np.repeat([0, 1], [15, 12])

    def by_hand(i: np.ndarray, j: np.ndarray) -> float:
        pairs = zip(nominal, anomalous, strict=True)
        return float(np.mean([roc_auc_score(labels, [*low[i], *high[j]]) for low, high in pairs]))

    rng, images = np.random.default_rng(7), (np.arange(15), np.arange(12))
    options = {"n_resamples": 1000, "vectorized": False, "method": "percentile", "rng": rng}
    expected = stats.bootstrap(images, by_hand, **options).confidence_interval
    low, high = compute_auroc_interval(nominal, anomalous, seed=7)
    assert (low, high) == pytest.approx((expected.low, expected.high))
    assert low < by_hand(*images) < high
    assert math.isnan(compute_auroc_interval(nominal[:, :1], anomalous)[0])


def test_holm_by_hand() -> None:
    assert correct_by_holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert correct_by_holm([0.5, 0.9]) == [1.0, 1.0]
    assert correct_by_holm([]) == []


@pytest.mark.parametrize(("methods", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_the_critical_difference_has_the_q_of_demsars_table_5(methods: int, q: float) -> None:
    expected = q * math.sqrt(methods * (methods + 1) / (6 * 14))
    assert critical_difference(methods, 14) == pytest.approx(expected, abs=1e-3)


def test_methods_over_tasks() -> None:
    values = {"a": [0.9, 0.8, 0.7, 0.95, 0.85], "b": [0.8, 0.7, 0.65, 0.9, 0.5], "c": [0.9, 0.6, 0.75, 0.91, 0.6]}
    found = compare(list("vwxyz"), values)
    assert found is not None
    assert found.ranks == pytest.approx({"a": 1.3, "b": 2.8, "c": 1.9})  # a and c share the first task's 1 and 2
    assert found.friedman_p == pytest.approx(stats.friedmanchisquare(*values.values()).pvalue)
    assert [(pair.first, pair.second) for pair in found.pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert found.pairs[0].difference == pytest.approx(0.13)
    assert found.pairs[0].p == pytest.approx(2 / 2**5)  # all five of one sign, exactly
    assert found.pairs[0].p_holm == pytest.approx(3 / 2**4)
    assert found.pairs[1].p == pytest.approx(stats.wilcoxon(values["a"], values["c"]).pvalue)


def test_one_method_or_task_is_not_compared() -> None:
    assert compare(["x", "y"], {"a": [1.0, 0.5]}) is None
    assert compare(["x"], {"a": [1.0], "b": [0.5]}) is None
    alike = compare(["x", "y"], {"a": [1.0, 0.5], "b": [1.0, 0.5]})
    assert alike is not None and alike.pairs[0].p == 1.0 and math.isnan(alike.friedman_p)
