"""Pixel AUROC, partial AUROC, average precision and F1-max, each with a bound on its error, on raw scores."""

from typing import Any

import torch
from torch import Tensor

from lit_ad.metrics import curves
from lit_ad.metrics.state import Counts, PixelState


class PixelMetric(PixelState):
    """A metric of nominal and anomalous pixels, whatever image they are from.

    `exact=True` keeps every distinct score instead of cells: for small data, and to check the default against.
    """

    higher_is_better = True
    tables = ("pixels",)

    def update(self, scores: Tensor, target: Tensor) -> None:
        """Count pixels, 2 x (...): scores of any range, target 0 or 1. From three dimensions on, the first is images.

        Raises:
            ValueError: shapes differ, a score is NaN or infinite, a target is not 0 or 1; names the image's index.
        """
        for name, image, mask in images(scores, target):
            self._add(image, mask, "", name)

    def compute(self) -> Tensor:
        """The metric as a float64 scalar; nan when nominal or anomalous pixels are missing."""
        counts = self._pixels()
        return torch.tensor(float(self._metric(counts.nominal, counts.anomalous)), dtype=torch.float64)

    def certificate(self) -> float:
        """The most that `compute()` can be off the value on all scores: 0 when every cell holds one exact value."""
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            counts = self._pixels()
        return self._bound(counts)

    def _metric(self, *counts: Any) -> Any:
        raise NotImplementedError

    def _bound(self, counts: Counts) -> float:
        return curves.error_bound(self._metric, *fields(counts))


class PixelAUROC(PixelMetric):
    """Area under the ROC curve of all pixels."""

    def _metric(self, *counts: Any) -> Any:
        return curves.auroc(*counts)


class PixelPartialAUROC(PixelMetric):
    """Area under the ROC curve up to `max_fpr`, standardised as scikit-learn does: 0.5 is chance, 1 perfect."""

    def __init__(self, max_fpr: float = 0.3, exact: bool = False, **kwargs: Any) -> None:
        super().__init__(exact, **kwargs)
        if not 0 < max_fpr <= 1:
            raise ValueError(f"max_fpr must lie in (0, 1], not {max_fpr}")
        self.max_fpr = max_fpr

    def _metric(self, *counts: Any) -> Any:
        nominal, anomalous = counts
        return curves.auroc(nominal, anomalous, self.max_fpr)


class PixelAveragePrecision(PixelMetric):
    """Average precision of all pixels."""

    def _metric(self, *counts: Any) -> Any:
        return curves.average_precision(*counts)

    def _bound(self, counts: Counts) -> float:
        return curves.average_precision_error_bound(*fields(counts))


class PixelF1Max(PixelMetric):
    """The best F1 of all pixels over all thresholds."""

    def _metric(self, *counts: Any) -> Any:
        return curves.f1_max(*counts)

    def _bound(self, counts: Counts) -> float:
        return curves.f1_max_error_bound(*fields(counts))


def fields(counts: Counts) -> tuple[Any, ...]:
    """The four arrays in the order that curves.py takes them."""
    return counts.nominal, counts.anomalous, counts.nominal_tied, counts.anomalous_tied


def images(scores: Tensor, target: Tensor) -> list[tuple[str, Tensor, Tensor]]:
    """Name, scores and target of each image: (B, ...) -> B x (...), or one image below three dimensions."""
    if scores.shape != target.shape:
        raise ValueError(f"scores have shape {tuple(scores.shape)}, the target {tuple(target.shape)}")
    if scores.ndim < 3:
        return [("image 0", scores, target)]
    return [(f"image {index} of the batch", *pair) for index, pair in enumerate(zip(scores, target, strict=True))]
