"""Pixel metrics are within their error bound of scikit-learn's, in any order and batches."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from torch import Tensor

from lit_ad.metrics import PixelAUROC, PixelAveragePrecision, PixelF1Max, PixelPartialAUROC, state

PIXELS = 60_000


def best_f1(target: np.ndarray, scores: np.ndarray) -> float:
    precision, recall, _ = precision_recall_curve(target, scores)
    return float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12)))


METRICS: dict[str, tuple[Callable[..., Any], Callable[[np.ndarray, np.ndarray], float]]] = {
    "auroc": (PixelAUROC, roc_auc_score),
    "partial": (lambda **k: PixelPartialAUROC(0.1, **k), lambda y, s: roc_auc_score(y, s, max_fpr=0.1)),
    "precision": (PixelAveragePrecision, average_precision_score),
    "f1": (PixelF1Max, best_f1),
}


def distribution(name: str) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    target = torch.rand(PIXELS, generator=random) < 0.1
    normal = torch.randn(PIXELS, generator=random) + target
    ties = torch.rand(PIXELS, generator=random) < 0.9
    scores = {
        "gaussian": normal,
        "bunched": 0.979 + 0.002 * normal.sigmoid(),
        "1e-12": 1e-12 * normal.abs(),
        "1e6": 1e6 * normal,
        "ties": torch.where(ties, torch.tensor(0.7), normal),
        "bfloat16": normal.bfloat16(),
        "half": normal.half(),
        "negative": -(-normal).exp(),
        "constant": torch.ones(PIXELS),
        "float64": normal.double().float().double(),
    }
    return scores[name], target


NAMES = ["gaussian", "bunched", "1e-12", "1e6", "ties", "bfloat16", "half", "negative", "constant", "float64"]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", NAMES)
def test_error_is_within_the_certificate(name: str, metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, target = distribution(name)
    make, reference = METRICS[metric]
    truth = reference(target.numpy(), scores.float().numpy())
    for rows in (200, 3000, state.BUDGET["pixels"]):
        monkeypatch.setitem(state.BUDGET, "pixels", rows)
        for exact in (False, True):
            ours = make(exact=exact)
            ours.update(scores, target)
            bound = ours.certificate()
            assert abs(float(ours.compute()) - truth) <= bound
            assert bound <= 1e-9 or not (exact or rows > PIXELS or name == "constant")


@pytest.mark.parametrize("name", NAMES)
def test_the_certificate_is_small_in_a_full_table(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is as full as the default table is with millions of pixels: more distinct scores than rows."""
    monkeypatch.setitem(state.BUDGET, "pixels", 1 << 15)
    scores, target = distribution(name)
    ours = PixelAUROC()
    ours.update(scores, target)
    assert ours.certificate() <= 1e-4


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    metric=st.sampled_from(sorted(METRICS)),
)
def test_order_and_batches_do_not_change_the_metric(
    seed: int, shape: list[int], dtype: torch.dtype, scale: float, metric: str
) -> None:
    random = torch.Generator().manual_seed(seed)
    scores = (scale * torch.randn(shape, generator=random)).to(dtype)
    target = torch.rand(shape, generator=random) < 0.4
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(state.BUDGET, "pixels", 100)
        patch.setattr(state, "PENDING", 64)
        whole, pieces = (METRICS[metric][0]() for _ in range(2))
        whole.update(scores, target)
        order = torch.randperm(scores.numel(), generator=random)
        for part in order.split(max(1, 1 + seed % scores.numel())):
            pieces.update(scores.flatten()[part], target.flatten()[part].to(dtype))
        assert torch.equal(whole.compute().nan_to_num(-1), pieces.compute().nan_to_num(-1))
        assert np.array_equal(whole.certificate(), pieces.certificate(), equal_nan=True)
        assert np.isnan(float(whole.compute())) == (target.all() or not target.any())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_errors_name_the_image(bad: float) -> None:
    scores, target = torch.rand(4, 3, 3), torch.zeros(4, 3, 3)
    metric = PixelAUROC()
    with pytest.raises(ValueError, match=r"shape \(4, 3, 3\), the target \(3, 3\)"):
        metric.update(scores, target[0])
    target[2, 1, 1] = 255
    with pytest.raises(ValueError, match=r"image 2 of the batch: the target must hold only 0 .* not 255"):
        metric.update(scores, target)
    scores[1, 0, 0] = bad
    with pytest.raises(ValueError, match="image 1 of the batch: 1 of 9 scores are NaN or infinite"):
        metric.update(scores, target)
    with pytest.raises(ValueError, match="floating point"):
        metric.update(target.long(), target)


def test_it_follows_the_rules_of_torchmetrics() -> None:
    """These are forward, reset, state_dict, merge_state and moves to a device."""
    scores, target = distribution("gaussian")
    halves = list(zip(scores.split(PIXELS // 2), target.split(PIXELS // 2), strict=True))
    whole, metric, other = PixelAUROC(), PixelAUROC(), PixelAUROC()
    whole.update(scores, target)
    first = PixelAUROC()
    first.update(*halves[0])
    assert torch.equal(metric(*halves[0]), first.compute())
    metric(*halves[1])
    assert torch.equal(metric.compute(), whole.compute())
    other.update(*halves[1])
    first.merge_state(other)
    assert torch.equal(first.compute(), whole.compute())
    metric.persistent(True)
    loaded = PixelAUROC()
    loaded.load_state_dict(metric.state_dict())
    assert torch.equal(loaded.to("cpu").compute(), whole.compute())
    metric.reset()
    metric.update(*halves[1])
    assert torch.equal(metric.compute(), other.compute())


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_metrics_of_nothing_are_nan() -> None:
    for make, _ in METRICS.values():
        assert torch.isnan(make().compute())
