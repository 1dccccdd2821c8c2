"""The differences between the results of an exported file and of its checkpoint."""

from collections.abc import Sequence

import numpy as np

from lit_ad.detector.detector import Detector
from lit_ad.detector.inputs import ImageLike
from lit_ad.errors import NotFiniteError

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}  # largest relative difference of scores and maps; int8 has no such limit
Differences = dict[str, dict[str, float]]  # {"batch 1": {"score": 1e-6, "anomaly_map": 2e-6}, ...}


def measure_differences(
    exported: Detector, checkpoint: Detector, images: Sequence[ImageLike], batch_sizes: Sequence[int] = (1, 4)
) -> Differences:
    """Judge images by an exported file and by its checkpoint, and compare the results.

    The difference of two scores is relative to the checkpoint's score, or to the mean size of all its scores if that is
    larger, because a log-density may be near 0. The difference of two maps is relative to the largest value of the
    checkpoint's map.

    Args:
        exported: The exported file.
        checkpoint: Its checkpoint.
        images: The images to judge.
        batch_sizes: The batch sizes at which the exported file judges them.

    Returns:
        For each batch size, the largest relative difference of the scores, and of the maps if there are maps.

    Raises:
        NotFiniteError: A score or map is NaN or infinite. The message names the image, and says whether the
            exported file gave the number.
    """
    expected = list(checkpoint.stream(images))
    mean_size = float(np.mean([abs(detection.score) for detection in expected]))
    by_size: Differences = {}
    for size in batch_sizes:
        scores, maps = [], []
        try:
            detections = list(exported.stream(images, batch_size=size))
        except NotFiniteError as error:
            raise NotFiniteError(f"the exported file at batch {size}: {error}") from error
        for detection, reference in zip(detections, expected, strict=True):
            scores.append(abs(detection.score - reference.score) / max(abs(reference.score), mean_size, 1e-12))
            if detection.anomaly_map is not None and reference.anomaly_map is not None:
                largest = max(float(np.abs(reference.anomaly_map).max()), 1e-12)
                maps.append(float(np.abs(detection.anomaly_map - reference.anomaly_map).max()) / largest)
        by_size[f"batch {size}"] = {"score": max(scores), **({"anomaly_map": max(maps)} if maps else {})}
    return by_size


def list_excesses(by_size: Differences, tolerance: float) -> list[str]:
    """List the differences above a tolerance, in words. NaN counts as above."""
    return [
        f"{name} at {size} by {value:.1e}"
        for size, values in by_size.items()
        for name, value in values.items()
        if not value <= tolerance
    ]
