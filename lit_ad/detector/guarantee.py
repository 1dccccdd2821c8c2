"""What a decision promises, in words and numbers for files and pages. NumPy only."""

from collections import Counter
from collections.abc import Hashable, Sequence

from lit_ad.counts import format_count
from lit_ad.detector.decision import Decision
from lit_ad.detector.thresholds import POOLED, may_lie_above
from lit_ad.detector.tolerance import at_most, rate_bound

CONFIDENCE = 0.95  # of what is said of one detector


def guarantee(decision: Decision, category: str | None = POOLED) -> str:
    """What the image threshold promises, in a sentence or two."""
    point, chosen = decision.operating_point(category), also_chosen(decision, category)
    if point.by_hand:
        return "The threshold was set by hand, so no false-alarm rate is promised."
    rate, folds = decision.kept_rate(category), folds_of(decision, category)
    more = "nominal" if folds else "held-out"
    lower = f" {100 * decision.false_alarm:.3g} % was asked for, which takes more {more} images."
    asked = lower if rate > decision.false_alarm else ""
    if chosen:
        return f"The false-alarm rate of {100 * rate:.3g} % is approximate: {describe_chosen(chosen)}.{asked}"
    if folds:
        return of_folds(decision, category) + asked
    bound = rate_bound(point.held_out, point.above, CONFIDENCE)
    others = scale_images_of(decision, category)
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


def describe_rate(decision: Decision, category: str | None = POOLED) -> str:
    """The false-alarm rate that is kept in words, with the one that was asked for where it is another."""
    asked = f"{100 * decision.false_alarm:.3g} %"
    kept = f"{100 * decision.kept_rate(category):.3g} %"
    sure = "" if decision.confidence is None else f" with {100 * decision.confidence:g} % confidence"
    lowest = f"{kept}, the lowest that the held-out images allow{sure} ({asked} was asked for)"
    return f"{kept}{sure}" if kept == asked else lowest


def also_chosen(decision: Decision, category: str | None = POOLED) -> list[str]:
    """What else was chosen on the held-out images of a category, or of all together."""
    known = [category] if category is not None and category in decision.scores else list(decision.scores)
    return list(dict.fromkeys(chosen for name in known for chosen in decision.also_chosen.get(name, ())))


def scale_images_of(decision: Decision, category: str | None = POOLED) -> int:
    """How many held-out images of a category, or of all, set the scale of the maps alone."""
    known = [category] if category is not None and category in decision.scores else list(decision.scores)
    return sum(decision.scaled.get(name, 0) for name in known)


def describe_chosen(phrases: list[str]) -> str:
    """Return what makes a rate approximate, as a part of a sentence."""
    return f"{' and '.join(phrases)} {'were' if len(phrases) > 1 else 'was'} chosen on the same held-out images"


def folds_of(decision: Decision, category: str | None = POOLED) -> int:
    """How many folds have images of a category, or at most those of one where all count together; 0 if its images were
    held out of training."""
    known = [category] if category is not None and category in decision.scores else list(decision.scores)
    return max(sum(images > 0 for images in decision.folds.get(name, ())) for name in known)


def of_folds(decision: Decision, category: str | None) -> str:
    """What a decision of folds promises, in a few sentences."""
    images, folds = decision.operating_point(category).held_out, folds_of(decision, category)
    proven = proven_of_folds(decision, category)
    what = (
        "Nothing is proven about the rate."
        if proven is None or proven >= 1
        else (
            f"Proven is a rate of at most {100 * proven:.3g} %, not for this detector alone but for a verdict in which "
            "those of all these trainings take part."
        )
    )
    if proven is None:  # lit-ad recalibrate
        return (
            f"Some of the {images} nominal images trained this detector, and each of these was scored by a training "
            f"without it ({folds} folds); others were held out. {what}"
        )
    how = "leaving one out" if folds >= images else f"{folds} folds"
    return (
        f"All {images} nominal images trained this detector, and each was scored by a training without it ({how}). "
        f"About {100 * decision.kept_rate(category):.3g} % of nominal images are called anomalous, if this detector "
        f"scores new ones as those trainings scored the images that they left out. {what}"
    )


def proven_of_folds(decision: Decision, category: str | None = POOLED) -> float | None:
    """Return `bound_of_folds` of a category, or of all together; None where not all that decide were in folds."""
    known = [category] if category is not None and category in decision.scores else list(decision.scores)
    held = [sum(decision.folds.get(name, ())) for name in known]
    if held != [len(decision.scores[name]) for name in known]:
        return None
    contents = list(zip(*filter(None, decision.folds.values()), strict=True))  # of each fold, by category
    sizes = [sum(images) for images in zip(*(decision.folds[name] for name in known), strict=True)]
    return bound_of_folds(sizes, decision.kept_rate(category), contents)


def bound_of_folds(sizes: Sequence[int], rate: float, contents: Sequence[Hashable] | None = None) -> float:
    """Return what the false-alarm rate of a cross-conformal verdict does not exceed, over the draw of the images.

    The verdict compares a new image's score by the detector of each fold with the scores of the images that this fold
    left out. It is anomalous where fewer than t of all n images score as high, t = floor(rate (n + 1)). Two bounds
    hold, and the lower one is returned. Both take images that are exchangeable, and a training that does not care for
    their order.

    1. The p-value of each of K folds is valid, and twice a weighted mean of such p-values is, too (Vovk and Wang, 2020,
       https://arxiv.org/abs/1212.4966). This gives 2 (t + K - 1) / (n + K).
    2. Give the new image a fold of its own, of m images like the c folds that have m. Each two images of different
       folds meet in the training without both folds, and the one with the higher score wins. An image that loses fewer
       than t times is strange. Of s strange images in these c + 1 folds, at least s (s - m) / 2 pairs meet, and each
       has a loser, so that s <= 2 (t - 1) + m. The new image is as likely to be strange as any other of the (c + 1) m:
       (2 (t - 1) + m) / ((c + 1) m). This counts strange images as Barber et al. do (2021,
       https://arxiv.org/abs/1905.02928), who have c = K, and round up to twice the rate and a remainder.

    Leaving one out, the second is (2 t - 1) / (n + 1): at the lowest rate, where t = 1, no more than that rate. Seen is
    about the rate (Hennhöfer and Preisach, 2024, https://arxiv.org/abs/2402.16388).

    Args:
        sizes: How many images of the category each fold holds.
        rate: That the p-value does not exceed, r.
        contents: What each fold holds of all categories, equal where it is the same. None: of one category.
    """
    images, least = sum(sizes), may_lie_above(sum(sizes), rate) + 1
    parts = Counter((size, like) for size, like in zip(sizes, contents or sizes, strict=True) if size)
    bounds = [2 * (least + parts.total() - 1) / (images + parts.total())]
    bounds += [(2 * (least - 1) + size) / ((alike + 1) * size) for (size, _), alike in parts.items()]
    return min(1.0, *bounds)


def notes(decision: Decision | None) -> list[str]:
    """A line for each thing that who uses a decision should know: warnings, and thresholds that were set by hand."""
    return [] if decision is None else [*(f"Warning: {each}" for each in decision.warnings()), *by_hand(decision)]


def by_hand(decision: Decision) -> list[str]:
    """A line for each threshold that was set by hand; of several categories with one threshold, a line for all."""
    lines = []
    for what, point in (("threshold", decision.operating_point), ("pixel threshold", decision.pixel_operating_point)):
        keys = decision.by_hand if what == "threshold" else decision.pixels_by_hand
        everywhere = {"", *decision.scores} <= {*keys} and len(set(keys.values())) == 1
        for key in [""] if everywhere else sorted(keys):
            place = "" if everywhere else f" of {key or 'images of no known category'}"
            lines.append(f"{what}{place} {point(key or POOLED)}")
    return lines


def probability_above(held_out: int, rate: float, confidence: float | None = None) -> float:
    """The probability that the false-alarm rate of one detector lies above the rate that its threshold was set for.

    Of scores without ties, the rate of a threshold that k of n held-out scores lie above is distributed as
    Beta(k + 1, n - k) (Vovk, 2012, https://proceedings.mlr.press/v25/vovk12.html). It lies above `rate` as often as a
    Binomial(n, rate) variable is k or less.
    """
    return at_most(may_lie_above(held_out, rate, confidence), held_out, rate)
