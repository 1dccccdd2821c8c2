"""Bootstrap intervals of the metrics of images. NumPy only."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_ad.metrics import curves

MetricOfCounts = Callable[[NDArray[np.int64], NDArray[np.int64]], Any]
IMAGE_METRICS: dict[str, Callable[..., Any]] = {
    "image_auroc": curves.auroc,
    "image_average_precision": curves.average_precision,
    "image_f1_max": curves.f1_max,
}


def bootstrap(
    metrics: list[MetricOfCounts],
    nominal: NDArray[np.int64],
    anomalous: NDArray[np.int64],
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> list[tuple[float, float]]:
    """Return the percentile interval of each metric, over test sets that are drawn with replacement.

    Draws without nominal or anomalous images are left out. The interval is NaN if no draw is left.

    Args:
        metrics: The metrics, as functions of `nominal` and `anomalous`.
        nominal: How many nominal images have each distinct score, ascending, (m,).
        anomalous: How many anomalous images have each of these scores, (m,).
        confidence: The share of the drawn test sets whose metric lies in the interval.
        resamples: How many test sets are drawn.
        seed: The seed of the draws.
    """
    images = int(nominal.sum() + anomalous.sum())
    if not (nominal.sum() and anomalous.sum()):
        return [(float("nan"), float("nan"))] * len(metrics)
    random, chances, values = np.random.default_rng(seed), np.concatenate([nominal, anomalous]) / images, []
    step = max(1, (1 << 22) // len(chances))  # how many draws fit into bounded memory
    for first in range(0, resamples, step):
        draws = random.multinomial(images, chances, size=min(step, resamples - first))
        values.append([metric(draws[:, : len(nominal)], draws[:, len(nominal) :]) for metric in metrics])
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.nanquantile(np.concatenate(values, axis=1), ends, axis=1)
    return list(zip(low.tolist(), high.tolist(), strict=True))
