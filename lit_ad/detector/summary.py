"""Summarize a decision and its guarantees as plain values, for files and pages. NumPy only."""

from typing import Any

from lit_ad.detector.decision import Decision
from lit_ad.detector.far_above import describe_far_above
from lit_ad.detector.guarantee import (
    CONFIDENCE,
    compute_probability_above,
    count_folds,
    count_scale_images,
    describe_by_hand,
    describe_guarantee,
    explain_approximation,
    prove_rate_of_folds,
)
from lit_ad.detector.pixel_guarantee import describe_pixel_guarantee
from lit_ad.detector.thresholds import POOLED, count_needed
from lit_ad.detector.tolerance import bound_rate


def summarize(decision: Decision) -> dict[str, Any]:
    """Return every threshold of a decision, with its figures and guarantees, as plain values for JSON.

    "thresholds" has one entry if there is one category. If there are several, it has one entry for each, and one for
    images whose category is not known (None).
    """
    categories = [*decision.scores, POOLED] if len(decision.scores) > 1 else [POOLED]
    return {
        "false_alarm": decision.false_alarm,
        "confidence_asked": decision.confidence,
        "kept_rate": decision.kept_rate(),
        "also_chosen": {category: list(chosen) for category, chosen in decision.also_chosen.items()},
        "repeated": list(decision.repeated),
        "by_hand": describe_by_hand(decision),
        "far_above": describe_far_above(decision),
        "thresholds": [_summarize_category(decision, category) for category in categories],
    }


def _summarize_category(decision: Decision, category: str | None) -> dict[str, Any]:
    """Return the entry of a category; for None, of all categories together."""
    image = decision.operating_point(category)
    folds = count_folds(decision, category)
    promised = not image.by_hand and not explain_approximation(decision, category)
    exact = promised and not folds
    confidence = decision.confidence or CONFIDENCE
    return {
        "category": category,
        "image": image.to_dict(),
        "pixels": _summarize_pixels(decision, category),
        "kept_rate": decision.kept_rate(category),
        "exact": exact,
        "scale_images": count_scale_images(decision, category),
        "folds": folds,
        "rate_proven_of_folds": prove_rate_of_folds(decision, category) if promised else None,
        "guarantee": describe_guarantee(decision, category),
        "probability_above_rate": compute_probability_above(image.held_out, decision.false_alarm, decision.confidence)
        if exact
        else None,
        "rate_with_confidence": bound_rate(image.held_out, image.above, confidence) if exact else None,
        "confidence": confidence,
        "held_out_for_the_rate": count_needed(decision.false_alarm),
        "held_out_for_the_rate_with_confidence": count_needed(decision.false_alarm, confidence),
    }


def _summarize_pixels(decision: Decision, category: str | None) -> dict[str, Any] | None:
    """Return the entry of the pixel threshold of a category. None without maps."""
    point, marking = decision.pixel_operating_point(category), decision.marking(category)
    if point is None or marking is None:
        return None
    pixels = decision.pixel_decision.select_pixels(category)
    return {
        **point.to_dict(),
        "rule": decision.pixel_rule.kind,
        "marking": marking.to_dict(),
        "guarantee": describe_pixel_guarantee(decision, category),
        "resolution": None if pixels is None else pixels.measure_resolution(point.threshold),
    }
