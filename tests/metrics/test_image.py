"""Image metrics equal scikit-learn's, with bootstrap intervals."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from lit_ad.metrics import ImageAUROC, ImageAveragePrecision, ImageF1Max, sample_auroc
from lit_ad.metrics.image import ImageMetric

METRICS: dict[type[ImageMetric], Callable[..., float]] = {
    ImageAUROC: roc_auc_score,
    ImageAveragePrecision: average_precision_score,
}


def random_scores(seed: int, number: int = 83) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    target = random.random(number) < 0.4
    scores = np.round(50 * (random.standard_normal(number) + target), 0)  # far outside [0, 1], with ties
    return torch.from_numpy(scores).float(), torch.from_numpy(target).long()


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_equal_scikit_learn_in_any_batches(metric: type[ImageMetric]) -> None:
    scores, target = random_scores(0)
    ours = metric()
    for part in torch.randperm(len(scores)).split(10):
        ours.update(scores[part], target[part])
    assert float(ours.compute()) == pytest.approx(METRICS[metric](target, scores), abs=1e-12)


def test_f1_max_is_the_highest_over_all_thresholds() -> None:
    scores, target = random_scores(1)
    f1 = []
    for threshold in scores.unique():
        found = scores >= threshold
        f1.append(2 * (found & (target == 1)).sum() / (found.sum() + target.sum()))
    ours = ImageF1Max()
    ours.update(scores, target)
    assert float(ours.compute()) == pytest.approx(float(max(f1)), abs=1e-6)


@pytest.mark.parametrize("metric", [*METRICS, ImageF1Max])
def test_intervals_equal_those_of_a_plain_bootstrap(metric: type[ImageMetric]) -> None:
    scores, target = random_scores(2)
    ours, turned = metric(), metric()
    ours.update(scores, target)
    turned.update(scores.flip(0), target.flip(0))
    low, high = ours.interval(resamples=2000)
    assert (low, high) == turned.interval(resamples=2000)
    assert low < float(ours.compute()) < high
    random, values = np.random.default_rng(5), []
    for _ in range(200):
        drawn = metric()
        index = torch.from_numpy(random.integers(0, len(scores), len(scores)))
        drawn.update(scores[index], target[index])
        values.append(float(drawn.compute()))
    assert np.quantile(values, [0.025, 0.975]) == pytest.approx([low, high], abs=0.05)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("metric", [*METRICS, ImageF1Max])
def test_metrics_of_one_class_or_of_nothing_are_nan(metric: type) -> None:
    ours = metric()
    assert torch.isnan(ours.compute())
    ours.update(torch.rand(3), torch.ones(3))
    assert torch.isnan(ours.compute())
    assert np.isnan(ours.interval()).all()


def test_errors_name_the_image() -> None:
    with pytest.raises(ValueError, match="image 1 of the batch: 1 of 1 scores are NaN"):
        ImageAUROC().update(torch.tensor([0.0, torch.nan]), torch.zeros(2))
    with pytest.raises(ValueError, match="image 0 of the batch: the target"):
        ImageAUROC().update(torch.rand(2), torch.tensor([2, 0]))
    with pytest.raises(ValueError, match="one score and one label per image"):
        ImageAUROC().update(torch.rand(2), torch.zeros(3))


@pytest.mark.parametrize("seed", range(5))
def test_sample_auroc_is_the_auroc_of_maxima_over_views(seed: int) -> None:
    scores, target = random_scores(seed)
    order = np.random.default_rng(seed)
    views = [f"part{i}" for i in order.integers(0, 30, len(scores))]
    by_sample: dict[str, list[int]] = {}
    for i, name in enumerate(views):
        by_sample.setdefault(name, []).append(i)
    labels = [int(any(target[i] for i in rows)) for rows in by_sample.values()]
    highest = [max(float(scores[i]) for i in rows) for rows in by_sample.values()]
    found = sample_auroc(scores.tolist(), target.tolist(), views)
    assert found == pytest.approx(roc_auc_score(labels, highest), abs=1e-12)
    shuffled = order.permutation(len(scores))
    turned = (scores[shuffled].tolist(), target[shuffled].tolist(), [views[i] for i in shuffled])
    assert sample_auroc(*turned) == found


def test_sample_auroc_of_single_views_is_image_auroc_and_of_one_class_nan() -> None:
    scores, target = random_scores(3)
    alone = sample_auroc(scores.tolist(), target.tolist(), range(len(scores)))
    assert alone == pytest.approx(roc_auc_score(target, scores), abs=1e-12)
    assert np.isnan(sample_auroc([1.0, 2.0], [1, 0], ["a", "a"])) and np.isnan(sample_auroc([], [], []))
