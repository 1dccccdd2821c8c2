"""Image AUROC, average precision and F1-max: exact, and with bootstrap intervals, because test sets are small."""

from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_ad.metrics import curves
from lit_ad.metrics.checks import check_scores
from lit_ad.metrics.intervals import MetricOfCounts, bootstrap
from lit_ad.metrics.lists import ListState


class ImageState(ListState):
    """Base of the image metrics: every score and label is kept."""

    kinds: ClassVar[dict[str, torch.dtype]] = {"scores": torch.float32, "labels": torch.int64}
    scores: list[Tensor]  # (n,) each
    labels: list[Tensor]  # (n,) each

    def _add(self, scores: Tensor, labels: Tensor, names: Sequence[str] | None = None) -> None:
        """Keep the scores and labels of B images, 2 x (B,).

        Raises ValueError, which names the first wrong image, by its index if it has no name.
        """
        if scores.shape != labels.shape or scores.ndim != 1:
            shapes = f"{tuple(scores.shape)} and {tuple(labels.shape)}"
            raise ValueError(f"Image metrics take one score and one label per image, (B,) each, not {shapes}")
        for index in range(len(scores)):
            name = f"image {index} of the batch" if names is None else names[index]
            check_scores(scores[index : index + 1], labels[index : index + 1], name)
        self.scores.append(scores.detach().to(self.device, torch.float32))
        self.labels.append(labels.detach().to(self.device, torch.int64))

    def _count(self, keep: NDArray[np.bool_] | slice = slice(None)) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the numbers of nominal and anomalous images for each distinct score, ascending: (m,) each. `keep`
        (n,): the images that count."""
        return _count_by_score(self._join("scores")[keep], self._join("labels")[keep])


class ImageMetric(ImageState):
    """A metric of one score and one label per image."""

    curve: MetricOfCounts

    def update(self, scores: Tensor, target: Tensor) -> None:
        """Add B images: scores (B,) of any range, target (B,) of 0 (nominal) or 1 (anomalous).

        Raises:
            ValueError: Shapes differ, a score is NaN or infinite, or a target is not 0 or 1. The message has the
                image's index.
        """
        self._add(scores, target)

    def compute(self) -> Tensor:
        """Return the metric as a float64 scalar; NaN without nominal or anomalous images."""
        return torch.tensor(float(type(self).curve(*self._count())), dtype=torch.float64)

    def interval(self, confidence: float = 0.95, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
        """Return the bootstrap interval: quantiles of the metric over test sets drawn with replacement."""
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            counts = self._count()
        return bootstrap([type(self).curve], *counts, confidence, resamples, seed)[0]


class ImageAUROC(ImageMetric):
    """Area under the ROC curve of the images."""

    curve = staticmethod(curves.auroc)


class ImageAveragePrecision(ImageMetric):
    """Average precision of the images."""

    curve = staticmethod(curves.average_precision)


class ImageF1Max(ImageMetric):
    """The best F1 of the images over all thresholds."""

    curve = staticmethod(curves.f1_max)


def sample_auroc(scores: Sequence[float], labels: Sequence[int], samples: Sequence[Hashable]) -> float:
    """Return the S-AUROC of Real-IAD (https://arxiv.org/abs/2403.12580), where each image is a view of a sample.

    The score of a sample is the maximum over its views, and it is anomalous if any view is. NaN without nominal or
    anomalous samples.

    Args:
        scores: The scores of n images.
        labels: Whether each image is anomalous, 0 or 1.
        samples: The sample of each image.
    """
    order = {sample: i for i, sample in enumerate(dict.fromkeys(samples))}
    numbers = np.array([order[sample] for sample in samples], np.int64)
    highest, label = np.full(len(order), -np.inf), np.zeros(len(order), np.int64)
    np.maximum.at(highest, numbers, np.array(scores))
    np.maximum.at(label, numbers, np.array(labels, np.int64))
    return float(curves.auroc(*_count_by_score(highest, label)))


def _count_by_score(scores: NDArray[Any], labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many nominal and anomalous entries have each distinct score, ascending: 2 x (n,) -> 2 x (m,)."""
    distinct, cell = np.unique(scores, return_inverse=True)
    nominal, anomalous = (np.bincount(cell[labels == label], minlength=len(distinct)) for label in (0, 1))
    return nominal, anomalous
