"""What a detector says of an image and of itself, as plain values for JSON, and as a picture."""

import io
from dataclasses import asdict
from typing import Any

from PIL import Image

from lit_ad.detector.detection import Detection
from lit_ad.detector.detector import Detector
from lit_ad.detector.summary import summary


def as_json(detection: Detection) -> dict[str, Any]:
    """A verdict as plain values; pixels are those of the image, upright."""
    decision, regions = detection.decision, detection.regions
    return {
        "score": detection.score,
        "p_value": detection.p_value,
        "anomalous": detection.anomalous,
        "threshold": None if decision is None else decision.threshold(detection.category),
        "category": detection.category,  # whose threshold; null: that of all together
        "size": {"height": detection.image.shape[0], "width": detection.image.shape[1]},
        "regions": [asdict(region) for region in regions],
    }


def description(detector: Detector) -> dict[str, Any]:
    """What clients may want to know of a detector."""
    card, decision = detector.card, detector.card.decision
    categories = [] if decision is None else [name for name in decision.scores if name]
    return {
        "method": card.method.rpartition(".")[2],
        "version": card.version,
        "precision": card.precision,
        "view": card.view.to_dict(),
        "categories": categories,
        "false_alarm": None if decision is None else decision.false_alarm,  # that was asked for
        "kept_rate": None if decision is None else decision.kept_rate(),  # that the held-out images allow
        "threshold": None if decision is None else decision.threshold(),
        "threshold_by_hand": decision is not None and decision.operating_point().by_hand,
        "decision": None if decision is None else summary(decision),  # every threshold, and what it promises
    }


def png(detection: Detection) -> bytes:
    """`Detection.plot` as a file."""
    return _as_png(detection.plot())


def heat_png(detection: Detection) -> bytes | None:
    """`Detection.heatmap` as a file, to be laid over the image. None without a map."""
    heat = detection.heatmap()
    return None if heat is None else _as_png(Image.fromarray(heat))


def _as_png(picture: Image.Image) -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    picture.save(file, format="PNG", compress_level=1)
    return file.getvalue()
