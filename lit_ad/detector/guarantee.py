"""Describe what a decision promises, in words and numbers for files and pages. NumPy only."""

from collections import Counter
from collections.abc import Hashable, Sequence

from lit_ad.counts import format_count
from lit_ad.detector.decision import Decision
from lit_ad.detector.thresholds import POOLED, count_allowed_above, count_needed
from lit_ad.detector.tolerance import binomial_cdf, bound_rate

CONFIDENCE = 0.95  # of the bound on the rate of one detector, if the decision has no confidence of its own


def describe_guarantee(decision: Decision, category: str | None = POOLED) -> str:
    """Return in a sentence or two what the image threshold promises."""
    point, why = decision.operating_point(category), explain_approximation(decision, category)
    if point.by_hand:
        return "The threshold was set by hand, so no false-alarm rate is promised."
    rate, folds = decision.kept_rate(category), count_folds(decision, category)
    more = "nominal" if folds else "held-out"
    lower = f" {100 * decision.false_alarm:.3g} % was asked for, which takes more {more} images."
    asked = lower if rate > decision.false_alarm else ""
    if why:
        return f"The false-alarm rate of {100 * rate:.3g} % is approximate: {why}.{asked}"
    if folds:
        return _describe_folds(decision, category) + asked
    bound = bound_rate(point.held_out, point.above, CONFIDENCE)
    others = count_scale_images(decision, category)
    of_scale = f" {format_count(others, 'other held-out image')} set the scale of the maps." if others else ""
    if decision.confidence is not None:
        return (
            f"With {100 * decision.confidence:g} % confidence over the draw of the held-out images, at most "
            f"{100 * rate:.3g} % of nominal images like them are called anomalous by this detector.{asked}{of_scale}"
        )
    return (
        f"A nominal image like the held-out ones is called anomalous with a probability of at most {100 * rate:.3g} %, "
        f"over the draw of the held-out images and of the image. The rate of one detector may lie above: with "
        f"{100 * CONFIDENCE:g} % confidence that of this one is at most {100 * bound:.3g} %.{asked}{of_scale}"
    )


def explain_approximation(decision: Decision, category: str | None = POOLED) -> str:
    """Return as a part of a sentence why the rate of a category, or of all (None), is approximate; "" if it is not."""
    names = _select_categories(decision, category)
    chosen = list(dict.fromkeys(phrase for name in names for phrase in decision.also_chosen.get(name, ())))
    reasons = []
    if chosen:
        were = "were" if len(chosen) > 1 else "was"
        reasons.append(f"{' and '.join(chosen)} {were} chosen on the same held-out images")
    if any(name in decision.repeated for name in names):
        reasons.append("several of the images that set the threshold show one part")
    return ", and ".join(reasons)


def count_scale_images(decision: Decision, category: str | None = POOLED) -> int:
    """Return how many held-out images of a category, or of all (None), set only the scale of the maps."""
    return sum(decision.scaled.get(name, 0) for name in _select_categories(decision, category))


def _select_categories(decision: Decision, category: str | None) -> list[str]:
    """Return the category alone, or all of a decision's categories if it is None or not known."""
    return [category] if category is not None and category in decision.scores else list(decision.scores)


def count_folds(decision: Decision, category: str | None = POOLED) -> int:
    """Return the number of folds that have images of a category; 0 if its images were held out of training.

    For all categories together (None), return the highest of their numbers.
    """
    names = _select_categories(decision, category)
    return max(sum(images > 0 for images in decision.folds.get(name, ())) for name in names)


def _describe_folds(decision: Decision, category: str | None) -> str:
    """Return in a few sentences what a decision with folds promises."""
    point, folds = decision.operating_point(category), count_folds(decision, category)
    images = point.held_out
    proven = prove_rate_of_folds(decision, category)
    what = (
        "Nothing is proven about the rate."
        if proven is None or proven >= 1
        else (
            f"A rate of at most {100 * proven:.3g} % is proven, not for this detector alone but for a joint verdict of "
            "the detectors of all these trainings."
        )
    )
    if proven is None:  # `lit-ad recalibrate` has added held-out images
        return (
            f"This detector was trained on some of the {images} nominal images, and each of these was scored by a "
            f"training without it ({folds} folds); others were held out. {what}"
        )
    how = "leaving one out" if folds >= images else f"{folds} folds"
    return (
        f"This detector was trained on all {images} nominal images, and each was scored by a training without it "
        f"({how}). About {100 * point.p_value:.3g} % of nominal images are called anomalous, if this "
        f"detector scores new ones as those trainings scored the images that they left out. {what}"
    )


def prove_rate_of_folds(decision: Decision, category: str | None = POOLED) -> float | None:
    """Return `bound_rate_of_folds` of a category, or of all together (None).

    None if some of the images that set the threshold were in no fold: nothing is proven then.
    """
    names = _select_categories(decision, category)
    in_folds = [sum(decision.folds.get(name, ())) for name in names]
    if in_folds != [len(decision.scores[name]) for name in names]:
        return None
    contents = list(zip(*filter(None, decision.folds.values()), strict=True))  # each fold's images, by category
    sizes = [sum(images) for images in zip(*(decision.folds[name] for name in names), strict=True)]
    return bound_rate_of_folds(sizes, decision.kept_rate(category), contents)


def bound_rate_of_folds(sizes: Sequence[int], rate: float, contents: Sequence[Hashable] | None = None) -> float:
    """Return an upper bound of the false-alarm rate of a cross-conformal verdict, over the draw of the images.

    The verdict: each fold's detector, which was trained without that fold, scores the new image and the images of the
    fold. The new image is anomalous if fewer than t of all n images score as high as it does in their fold, where
    t = floor(rate (n + 1)). Two bounds hold, and the lower one is returned. Both assume that the images are
    exchangeable and that a training does not depend on their order.

    1. The p-value of each of the K folds is valid, and so is twice a weighted mean of valid p-values (Vovk and Wang,
       2020, https://arxiv.org/abs/1212.4966). This gives 2 (t + K - 1) / (n + K).
    2. Put the new image into a fold of its own, with m images, like the c folds that have m. Any two images of
       different folds meet in the training without both folds, and the one with the higher score wins. Call an image
       strange if it loses fewer than t times. Among s strange images in these c + 1 folds, at least s (s - m) / 2 pairs
       meet, and each pair has a loser, so s <= 2 (t - 1) + m. The new image is as likely to be strange as any other of
       the (c + 1) m images, which gives (2 (t - 1) + m) / ((c + 1) m). Barber et al. (2021,
       https://arxiv.org/abs/1905.02928) count strange images in this way, with c = K, and round the bound up to twice
       the rate and a remainder.

    With folds of one image (leave one out), the second bound is (2 t - 1) / (n + 1): at the lowest rate, where t = 1,
    it is that rate. In experiments the rate is about `rate` (Hennhöfer and Preisach, 2024,
    https://arxiv.org/abs/2402.16388).

    Args:
        sizes: How many images of the category each fold has.
        rate: The highest p-value of an anomalous verdict.
        contents: How many images of each category each fold has; folds with equal contents are alike. None: there is
            one category.
    """
    images, least = sum(sizes), count_allowed_above(sum(sizes), rate) + 1
    parts = Counter((size, like) for size, like in zip(sizes, contents or sizes, strict=True) if size)
    bounds = [2 * (least + parts.total() - 1) / (images + parts.total())]
    bounds += [(2 * (least - 1) + size) / ((alike + 1) * size) for (size, _), alike in parts.items()]
    return min(1.0, *bounds)


def describe_rate(decision: Decision, category: str | None = POOLED) -> str:
    """Return in words the false-alarm rate that holds, and the one asked for if it differs."""
    asked = f"{100 * decision.false_alarm:.3g} %"
    kept = f"{100 * decision.kept_rate(category):.3g} %"
    sure = "" if decision.confidence is None else f" with {100 * decision.confidence:g} % confidence"
    lowest = f"{kept}, the lowest that the held-out images allow{sure} ({asked} was asked for)"
    return f"{kept}{sure}" if kept == asked else lowest


def list_warnings(decision: Decision) -> list[str]:
    """Return a warning for each category that has too few held-out images for the rate."""
    lines = []
    for category, scores in decision.scores.items():
        by_hand = category in decision.by_hand and (category in decision.pixels_by_hand or not decision.maxima)
        if decision.smallest_rate(category) > decision.false_alarm and not by_hand:
            place = f" of {category}" if len(decision.scores) > 1 else ""
            needed = count_needed(decision.false_alarm, decision.confidence)
            kind, advice = "held-out nominal", f"hold out {needed} or more"
            if decision.folds.get(category):
                kind, advice = "nominal", f"take {needed} or more"
            elif decision.confidence is None:
                advice += ", train with decision.folds so that all images decide"
            images = f"{kind} image{place} allows", f"{kind} images{place} allow"
            sure = "" if decision.confidence is None else f" with {100 * decision.confidence:g} % confidence"
            lowest = f"{decision.smallest_rate(category):.3g}{sure}"
            lines.append(
                f"{format_count(len(scores), *images)} a false-alarm rate of {lowest} and no lower, where "
                f"decision.false_alarm is {decision.false_alarm:.3g}: {advice}, or ask for a higher rate"
            )
    return lines


def list_notes(decision: Decision | None) -> list[str]:
    """Return the lines that a command shows about a decision: its warnings, and the thresholds set by hand."""
    if decision is None:
        return []
    return [*(f"Warning: {warning}" for warning in list_warnings(decision)), *describe_by_hand(decision)]


def describe_by_hand(decision: Decision) -> list[str]:
    """Return a line for each threshold set by hand; one line in all if every category has the same threshold."""
    lines = []
    for what, point in (("threshold", decision.operating_point), ("pixel threshold", decision.pixel_operating_point)):
        keys = decision.by_hand if what == "threshold" else decision.pixels_by_hand
        everywhere = {"", *decision.scores} <= {*keys} and len(set(keys.values())) == 1
        for key in [""] if everywhere else sorted(keys):
            place = "" if everywhere else f" of {key or 'images of no known category'}"
            lines.append(f"{what}{place} {point(key or POOLED)}")
    return lines


def compute_probability_above(held_out: int, rate: float, confidence: float | None = None) -> float:
    """Return the probability that the false-alarm rate of one detector lies above `rate`, for which its threshold was
    set.

    If k of n held-out scores lie above the threshold and there are no ties, the rate is distributed as
    Beta(k + 1, n - k) (Vovk, 2012, https://proceedings.mlr.press/v25/vovk12.html). The probability that it lies above
    `rate` is the probability that a Binomial(n, rate) variable is at most k.
    """
    return binomial_cdf(count_allowed_above(held_out, rate, confidence), held_out, rate)
