"""What a decision promises of pixels, in words. NumPy only."""

from lit_ad.counts import format_count
from lit_ad.detector.decision import Decision
from lit_ad.detector.guarantee import also_chosen, describe_chosen, folds_of
from lit_ad.detector.thresholds import POOLED, smallest_rate


def pixel_guarantee(decision: Decision, category: str | None = POOLED) -> str:
    """What the pixel threshold promises, in a sentence or two; nothing without maps."""
    point, rule, chosen = decision.pixel_operating_point(category), decision.pixel_rule, also_chosen(decision, category)
    if point is None:
        return ""
    if point.by_hand:
        return "The pixel threshold was set by hand, so no rate is promised of pixels."
    approximate = f", which is approximate: {describe_chosen(chosen)}" if chosen else ""
    folds = folds_of(decision, category)
    if rule.kind == "pixel":
        assert point.share is not None
        most = (point.held_out * point.share + 1) / (point.held_out + 1)
        proven = "" if chosen or folds else f" Proven is a mean of at most {100 * most:.3g} %."
        before = " It is of the pixels before the clean-up." if rule.clean_up else ""
        return (
            f"In the mean over images, {100 * point.share:.3g} % of a held-out nominal image's pixels lie above the "
            f"pixel threshold, and about as many of a new one's{approximate}.{proven} A single image may have more."
            f"{before}"
        )
    what = "any anomalous pixel"
    if rule.kind == "region":
        what = f"an anomalous region, {format_count(rule.area or 1, 'connected pixel')} or more"
    # Of this threshold, a rate is kept in the mean over detectors: decision.confidence is of the image threshold.
    rate = f"{100 * max(decision.false_alarm, smallest_rate(point.held_out)):.3g} %"
    if chosen or folds:
        return f"About {rate} of nominal images have {what}{approximate or ', as of their verdicts'}."
    return (
        f"A nominal image like the held-out ones has {what}, with a probability of at most {rate}, over the draw of "
        "the held-out images and of the image."
    )
