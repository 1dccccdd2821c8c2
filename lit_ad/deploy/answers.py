"""The service's answers: a verdict and a detector as plain values for JSON, and a verdict as a picture."""

import io
from typing import Any

from PIL import Image

from lit_ad.detector.detection import Detection
from lit_ad.detector.detector import Detector
from lit_ad.detector.summary import summarize


def describe_detection(detection: Detection) -> dict[str, Any]:
    """Return a verdict as plain values for JSON. Coordinates are pixels of the upright image."""
    decision, regions = detection.decision, detection.regions
    return {
        "score": detection.score,
        "p_value": detection.p_value,
        "anomalous": detection.anomalous,
        "threshold": None if decision is None else decision.threshold(detection.category),
        "category": detection.category,  # the category whose threshold decided; null: one threshold for all categories
        "size": {"height": detection.image.shape[0], "width": detection.image.shape[1]},
        "regions": [dict(vars(region)) for region in regions],
    }


def describe_detector(detector: Detector) -> dict[str, Any]:
    """Return a detector's method, view, categories and thresholds as plain values for JSON."""
    card, decision = detector.card, detector.card.decision
    categories = [] if decision is None else [name for name in decision.scores if name]
    return {
        "method": card.method.rpartition(".")[2],
        "version": card.version,
        "precision": card.precision,
        "view": card.view.to_dict(),
        "categories": categories,
        "false_alarm": None if decision is None else decision.false_alarm,  # the rate that the user asked for
        "kept_rate": None if decision is None else decision.kept_rate(),  # the rate that the held-out images allow
        "threshold": None if decision is None else decision.threshold(),
        "threshold_by_hand": decision is not None and decision.operating_point().by_hand,
        "decision": None if decision is None else summarize(decision),  # each threshold and its promise
    }


def draw_png(detection: Detection) -> bytes:
    """Draw `Detection.plot`, the image beside its heatmap, as a PNG file."""
    return _encode_png(detection.plot())


def draw_heat_png(detection: Detection) -> bytes | None:
    """Draw `Detection.heatmap` as a PNG file of the image's size. None if the detector has no map."""
    heat = detection.heatmap()
    return None if heat is None else _encode_png(Image.fromarray(heat))


def _encode_png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="PNG", compress_level=1)
    return file.getvalue()
