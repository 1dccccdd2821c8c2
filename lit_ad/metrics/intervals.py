"""The metrics of images by name, and their bootstrap intervals, in NumPy alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_ad.metrics import curves

Curve = Callable[[NDArray[np.int64], NDArray[np.int64]], Any]
IMAGE_CURVES: dict[str, Callable[..., Any]] = {
    "image_auroc": curves.auroc,
    "image_average_precision": curves.average_precision,
    "image_f1_max": curves.f1_max,
}


def bootstrap(
    curves: list[Curve],
    nominal: NDArray[np.int64],
    anomalous: NDArray[np.int64],
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> list[tuple[float, float]]:
    """Percentile interval of each curve's metric, images drawn with replacement; their order does not matter.

    Draws that miss a class say nothing and are left out; nan when all do.
    """
    images = int(nominal.sum() + anomalous.sum())
    if not (nominal.sum() and anomalous.sum()):
        return [(float("nan"), float("nan"))] * len(curves)
    random, chances, values = np.random.default_rng(seed), np.concatenate([nominal, anomalous]) / images, []
    step = max(1, (1 << 22) // len(chances))  # draws at once, in bounded memory
    for first in range(0, resamples, step):
        drawn = random.multinomial(images, chances, size=min(step, resamples - first))
        values.append([curve(drawn[:, : len(nominal)], drawn[:, len(nominal) :]) for curve in curves])
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.nanquantile(np.concatenate(values, axis=1), ends, axis=1)
    return list(zip(low.tolist(), high.tolist(), strict=True))
