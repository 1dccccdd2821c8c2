"""Describe in words what the pixel threshold of a decision promises. NumPy only."""

from lit_ad.counts import format_count
from lit_ad.detector.decision import Decision
from lit_ad.detector.guarantee import count_folds, explain_approximation
from lit_ad.detector.thresholds import POOLED, find_smallest_rate


def describe_pixel_guarantee(decision: Decision, category: str | None = POOLED) -> str:
    """Return in a sentence or two what the pixel threshold promises; "" if the method makes no maps."""
    point, rule = decision.pixel_operating_point(category), decision.pixel_rule
    why = explain_approximation(decision, category)
    if point is None:
        return ""
    if point.by_hand:
        return "The pixel threshold was set by hand, so no rate of pixels is promised."
    folds, limit = count_folds(decision, category), ""
    if why:
        limit = f", which is approximate: {why}"
    elif folds:
        limit = ", under the condition that the guarantee of the image threshold names"
    if rule.kind == "pixel":
        assert point.share is not None
        most = (point.held_out * point.share + 1) / (point.held_out + 1)
        proven = "" if why or folds else f" A mean of at most {100 * most:.3g} % is proven."
        kind = "nominal" if folds else "held-out nominal"
        before = " These shares count pixels before the clean-up." if rule.clean_up else ""
        return (
            f"In the mean over images, {100 * point.share:.3g} % of a {kind} image's pixels lie above the pixel "
            f"threshold, and about as many of a new one's{limit}.{proven} A single image may have more."
            f"{before}"
        )
    what = "any anomalous pixel"
    if rule.kind == "region":
        what = f"an anomalous region, {format_count(rule.area or 1, 'connected pixel')} or more"
    # decision.confidence is for the image threshold only. The rate of this threshold holds in the mean over detectors.
    rate = f"{100 * max(decision.false_alarm, find_smallest_rate(point.held_out)):.3g} %"
    if why or folds:
        return f"About {100 * point.p_value:.3g} % of nominal images have {what}{limit}."
    return (
        f"A nominal image like the held-out ones has {what}, with a probability of at most {rate}, over the draw of "
        "the held-out images and of the image."
    )
