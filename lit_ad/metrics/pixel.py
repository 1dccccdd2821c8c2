"""Pixel AUROC, partial AUROC, average precision and F1-max of raw scores, each with a bound of its error."""

from typing import Any

import torch
from torch import Tensor

from lit_ad.metrics import curves
from lit_ad.metrics.state import Counts, PixelState


class PixelMetric(PixelState):
    """Base of metrics of the pixels of all images together.

    `exact=True` keeps every distinct score; otherwise scores are counted in cells (see `histogram`).
    """

    higher_is_better = True
    tables = ("pixels",)

    def update(self, scores: Tensor, target: Tensor) -> None:
        """Count pixels: scores of any range and a target of 0 or 1, both (...). Of three dimensions or more, the first
        counts the images.

        Raises:
            ValueError: Shapes differ, a score is NaN or infinite, or a target is not 0 or 1. The message has the
                image's index.
        """
        for name, image, mask in split_images(scores, target):
            self._add(image, mask, "", name)

    def compute(self) -> Tensor:
        """Return the metric as a float64 scalar; NaN without nominal or anomalous pixels."""
        counts = self._count_pixels()
        return torch.tensor(float(self._compute_metric(counts.nominal, counts.anomalous)), dtype=torch.float64)

    def certificate(self) -> float:
        """Return an upper bound of the difference between `compute()` and the value from all scores: 0 if every cell
        holds one value."""
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            counts = self._count_pixels()
        return self._bound_error(counts)

    def _compute_metric(self, *counts: Any) -> Any:
        raise NotImplementedError

    def _bound_error(self, counts: Counts) -> float:
        return curves.bound_error(self._compute_metric, *as_arguments(counts))


class PixelAUROC(PixelMetric):
    """Area under the ROC curve of all pixels."""

    def _compute_metric(self, *counts: Any) -> Any:
        return curves.auroc(*counts)


class PixelPartialAUROC(PixelMetric):
    """Area under the ROC curve up to `max_fpr`, standardised as in scikit-learn: 0.5 is chance, 1 is perfect.

    Raises ValueError if max_fpr is not in (0, 1].
    """

    def __init__(self, max_fpr: float = 0.3, exact: bool = False, **kwargs: Any) -> None:
        super().__init__(exact, **kwargs)
        if not 0 < max_fpr <= 1:
            raise ValueError(f"max_fpr must lie in (0, 1], not {max_fpr}")
        self.max_fpr = max_fpr

    def _compute_metric(self, *counts: Any) -> Any:
        nominal, anomalous = counts
        return curves.auroc(nominal, anomalous, self.max_fpr)


class PixelAveragePrecision(PixelMetric):
    """Average precision of all pixels."""

    def _compute_metric(self, *counts: Any) -> Any:
        return curves.average_precision(*counts)

    def _bound_error(self, counts: Counts) -> float:
        return curves.bound_average_precision_error(*as_arguments(counts))


class PixelF1Max(PixelMetric):
    """The best F1 of all pixels over all thresholds."""

    def _compute_metric(self, *counts: Any) -> Any:
        return curves.f1_max(*counts)

    def _bound_error(self, counts: Counts) -> float:
        return curves.bound_f1_max_error(*as_arguments(counts))


def as_arguments(counts: Counts) -> tuple[Any, ...]:
    """Return the four arrays of counts, in the order in which the functions of curves.py take them."""
    return counts.nominal, counts.anomalous, counts.nominal_tied, counts.anomalous_tied


def split_images(scores: Tensor, target: Tensor) -> list[tuple[str, Tensor, Tensor]]:
    """Return the name, scores and target of each image: (B, ...) -> B x (...); below three dimensions, of one image.

    Raises ValueError if the shapes differ.
    """
    if scores.shape != target.shape:
        raise ValueError(f"scores have shape {tuple(scores.shape)}, the target {tuple(target.shape)}")
    if scores.ndim < 3:
        return [("image 0", scores, target)]
    return [(f"image {index} of the batch", *pair) for index, pair in enumerate(zip(scores, target, strict=True))]
