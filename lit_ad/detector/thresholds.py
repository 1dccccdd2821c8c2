"""Compute thresholds from the scores of held-out images, and how many of them lie above a threshold. NumPy only."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lit_ad.detector.tolerance import bound_rate, count_allowed_above_with_confidence, count_needed_with_confidence
from lit_ad.errors import NOT_FINITE, NotFiniteError, UserError

Floats = NDArray[np.float64]
POOLED = None  # the category of an image whose own is not known; all held-out images together set its threshold


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, with its p-value and the number of nominal held-out images above it."""

    threshold: float
    by_hand: bool  # whether a person set it, instead of the false-alarm rate
    p_value: float  # the highest p-value of a score above the threshold
    above: int  # how many held-out images lie above it
    held_out: int  # how many held-out images there are
    share: float | None = None  # for pixel thresholds: the mean share of a held-out map's pixels above it

    @property
    def rate(self) -> float:
        """The share of held-out images above the threshold."""
        return self.above / self.held_out

    def __str__(self) -> str:
        how = ", set by hand" if self.by_hand else ""
        pixels = "" if self.share is None else f", {100 * self.share:.3g} % of a map's pixels in the mean"
        return (
            f"{self.threshold:.6g}{how}: p-value at most {self.p_value:.3g}, {self.above} of {self.held_out} held-out "
            f"nominal images above it ({100 * self.rate:.3g} %){pixels}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        values = {**asdict(self), "rate": self.rate}
        return values if self.share is not None else {name: value for name, value in values.items() if name != "share"}


def select_category(values: Mapping[str, Floats], category: str | None) -> Floats:
    """Return the values of a category, or of all categories together if it is None or not known: (n,), ascending."""
    if category is not None and category in values:
        return values[category]
    if len(values) == 1:  # already sorted; sorting again for each image would be slow
        return next(iter(values.values()))
    return np.sort(np.concatenate(list(values.values()))) if values else np.zeros(0)


def find_operating_point(
    held: Floats, rate: float, by_hand: float | None = None, confidence: float | None = None
) -> OperatingPoint:
    """Return the threshold set by hand, else the threshold for a rate, with the number of held-out scores above it.

    Args:
        held: The held-out scores (n,), ascending.
        rate: The false-alarm rate, in (0, 1).
        by_hand: The threshold that a person set. None: the rate sets it.
        confidence: See `count_allowed_above`.
    """
    threshold = find_conformal_threshold(held, rate, confidence) if by_hand is None else by_hand
    above = int(np.count_nonzero(held > threshold))
    return OperatingPoint(threshold, by_hand is not None, (1 + above) / (len(held) + 1), above, len(held))


def find_conformal_threshold(held: Floats, rate: float, confidence: float | None = None) -> float:
    """Return the lowest held-out score above which p <= rate; the highest score if n scores are too few for such a p.

    `held` (n,): the held-out scores, ascending. `confidence`: see `count_allowed_above`.
    """
    return float(held[len(held) - count_allowed_above(len(held), rate, confidence) - 1])


def count_needed(rate: float, confidence: float | None = None) -> int:
    """Return how many held-out images are needed to promise a rate. `confidence`: see `count_allowed_above`."""
    return math.ceil(1 / rate - 1e-9) - 1 if confidence is None else count_needed_with_confidence(rate, confidence)


def find_smallest_rate(held_out: int, confidence: float | None = None) -> float:
    """Return the lowest rate that `held_out` images can promise: the inverse of `count_needed`."""
    return 1 / (held_out + 1) if confidence is None else bound_rate(held_out, 0, confidence)


def count_allowed_above(held_out: int, rate: float, confidence: float | None = None) -> int:
    """Return how many held-out scores may lie above the threshold for a rate. Scores equal to it are not above it.

    `confidence`: the probability that the rate of this detector is at most `rate`. None: only the mean over detectors
    is at most `rate`.
    """
    if confidence is not None:
        return count_allowed_above_with_confidence(held_out, rate, confidence)
    return min(max(int(np.floor(rate * (held_out + 1) * (1 + 1e-12))) - 1, 0), held_out - 1)


def refuse_not_finite(image: str, *values: ArrayLike | None) -> None:
    """Raise NotFiniteError, which names the image, if a score or a map (...) has NaN or infinity. None is ignored."""
    for value in values:  # NumPy takes ten times as long as math for the one number of a score
        finite = value is None or (math.isfinite(value) if isinstance(value, float) else np.isfinite(value).all())
        if not finite:
            raise NotFiniteError(f"{image}: {NOT_FINITE}")


def check_confidence(confidence: float | None, folds: bool) -> None:
    """Raise UserError if a confidence is not in (0, 1), or is given for a decision with folds."""
    if confidence is None:
        return
    if not 0 < confidence < 1:
        raise UserError(f"decision.confidence is a probability between 0 and 1, such as 0.95, not {confidence}")
    if folds:
        raise UserError(
            "decision.confidence needs images that were held out, and decision.folds holds none out: leave out one of "
            "the two. A detector of folds takes a confidence with images that it has not seen: lit-ad recalibrate FILE "
            "--nominal FOLDER --replace --confidence 0.95"
        )
