"""How far an exported file is from its checkpoint."""

from collections.abc import Sequence

import numpy as np

from lit_ad.detector.detector import Detector
from lit_ad.detector.inputs import ImageLike
from lit_ad.errors import NotFiniteError

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}  # relative, of scores and maps; int8 is judged by its AUROC
Differences = dict[str, dict[str, float]]


def differences(
    exported: Detector, checkpoint: Detector, images: Sequence[ImageLike], batch_sizes: Sequence[int] = (1, 4)
) -> Differences:
    """By batch size, the largest difference of scores and of maps on images.

    A score's is relative to its size, or to the mean size of all scores if that is larger (a log-density may lie near
    0); a map's is relative to the map's largest value. Raises NotFiniteError that names the image, and the file if it
    is the exported one's.
    """
    expected = list(checkpoint.stream(images))
    usual = float(np.mean([abs(judgement.score) for judgement in expected]))
    by_size: Differences = {}
    for size in batch_sizes:
        scores, maps = [], []
        try:
            judged = list(exported.stream(images, batch_size=size))
        except NotFiniteError as error:
            raise NotFiniteError(f"the exported file at batch {size}: {error}") from error
        for judgement, other in zip(judged, expected, strict=True):
            scores.append(abs(judgement.score - other.score) / max(abs(other.score), usual, 1e-12))
            if judgement.anomaly_map is not None and other.anomaly_map is not None:
                largest = max(float(np.abs(other.anomaly_map).max()), 1e-12)
                maps.append(float(np.abs(judgement.anomaly_map - other.anomaly_map).max()) / largest)
        by_size[f"batch {size}"] = {"score": max(scores), **({"anomaly_map": max(maps)} if maps else {})}
    return by_size


def beyond(by_size: Differences, tolerance: float) -> list[str]:
    """What differs by more than that; NaN does."""
    return [
        f"{name} at {size} by {value:.1e}"
        for size, values in by_size.items()
        for name, value in values.items()
        if not value <= tolerance
    ]
