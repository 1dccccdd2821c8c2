"""Bootstrap intervals equal the quantiles of a known distribution."""

import numpy as np
import pytest
from scipy.stats import binom

from lit_ad.metrics.intervals import IMAGE_METRICS, bootstrap

NOMINAL, ANOMALOUS = np.array([20, 10, 10, 0]), np.array([0, 5, 5, 50])


def anomalous_part(nominal: np.ndarray, anomalous: np.ndarray) -> np.ndarray:
    """Return the share of anomalous images in each draw: (draws, R) -> (draws,). Its distribution is binomial."""
    part: np.ndarray = anomalous.sum(axis=1) / (nominal.sum(axis=1) + anomalous.sum(axis=1))
    return part


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_images_are_drawn_with_replacement(confidence: float) -> None:
    ((low, high),) = bootstrap([anomalous_part], NOMINAL, ANOMALOUS, confidence, resamples=4000)
    expected = binom(100, 0.6).ppf([(1 - confidence) / 2, (1 + confidence) / 2]) / 100
    assert [low, high] == pytest.approx(expected, abs=0.011)


def test_all_curves_use_the_same_draws() -> None:
    together = bootstrap(list(IMAGE_METRICS.values()), NOMINAL, ANOMALOUS, resamples=50)
    alone = [bootstrap([curve], NOMINAL, ANOMALOUS, resamples=50)[0] for curve in IMAGE_METRICS.values()]
    assert together == alone
    assert bootstrap([anomalous_part], NOMINAL, ANOMALOUS, seed=1) != bootstrap([anomalous_part], NOMINAL, ANOMALOUS)


def test_one_class_has_no_interval() -> None:
    for nominal, anomalous in ((NOMINAL, 0 * ANOMALOUS), (0 * NOMINAL, ANOMALOUS)):
        assert np.isnan(bootstrap(list(IMAGE_METRICS.values()), nominal, anomalous)).all()


def test_draws_without_a_class_are_left_out() -> None:
    """With one anomalous image among ten, a third of the draws have none."""
    ((low, high),) = bootstrap([IMAGE_METRICS["image_auroc"]], np.array([9, 0]), np.array([0, 1]))
    assert (low, high) == (1, 1)
