"""Thresholds by the scores of held-out images, and what such a threshold stands for. NumPy only."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lit_ad.detector.tolerance import held_out_needed, most_above, rate_bound
from lit_ad.errors import NOT_FINITE, NotFiniteError, UserError

Floats = NDArray[np.float64]
POOLED = None  # the category of an image whose own is not known: all held-out images together


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, and what it stands for among the nominal held-out images."""

    threshold: float
    by_hand: bool  # whether a person set it, in place of the false-alarm rate
    p_value: float  # what lies above the threshold has this p-value at most
    above: int  # held-out images that lie above it
    held_out: int
    share: float | None = None  # of the pixels of a held-out map that lie above it, the mean; None of image thresholds

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
        """As plain values, for JSON."""
        values = {**asdict(self), "rate": self.rate}
        return values if self.share is not None else {name: value for name, value in values.items() if name != "share"}


def of_category(values: Mapping[str, Floats], category: str | None) -> Floats:
    """Those of a category, ascending; of all together where it is not known: (n,)."""
    if category is not None and category in values:
        return values[category]
    if len(values) == 1:  # they are sorted, and sorting them anew for each image would be slow
        return next(iter(values.values()))
    return np.sort(np.concatenate(list(values.values()))) if values else np.zeros(0)


def operating_point(
    held: Floats, rate: float, by_hand: float | None = None, confidence: float | None = None
) -> OperatingPoint:
    """Return the threshold of a rate by held-out scores (n,), ascending, or the one set by hand, and what it stands
    for. `confidence`: as of `may_lie_above`."""
    threshold = conformal_threshold(held, rate, confidence) if by_hand is None else by_hand
    above = int(np.count_nonzero(held > threshold))
    return OperatingPoint(threshold, by_hand is not None, (1 + above) / (len(held) + 1), above, len(held))


def conformal_threshold(held: Floats, rate: float, confidence: float | None = None) -> float:
    """The score above which p <= rate, or the highest of all where so few scores (n,), ascending, allow no such p."""
    return float(held[len(held) - may_lie_above(len(held), rate, confidence) - 1])


def held_out_for(rate: float, confidence: float | None = None) -> int:
    """Return how many held-out images allow a rate: in the mean, or of one detector with a confidence."""
    return math.ceil(1 / rate - 1e-9) - 1 if confidence is None else held_out_needed(rate, confidence)


def smallest_rate(held_out: int, confidence: float | None = None) -> float:
    """Return the lowest rate that so many held-out images allow, in the same sense."""
    return 1 / (held_out + 1) if confidence is None else rate_bound(held_out, 0, confidence)


def may_lie_above(held_out: int, rate: float, confidence: float | None = None) -> int:
    """How many of the held-out scores lie above the threshold of a rate; their ties with it do not.

    `confidence`: that the rate of one detector is no higher; None: it is no higher in the mean over detectors.
    """
    if confidence is not None:
        return most_above(held_out, rate, confidence)
    return min(max(int(np.floor(rate * (held_out + 1) * (1 + 1e-12))) - 1, 0), held_out - 1)


def refuse_not_finite(image: str, *values: ArrayLike | None) -> None:
    """Raises NotFiniteError that names the image where a score or a map (...) has NaN or infinity; None is no value."""
    if not all(value is None or bool(np.isfinite(value).all()) for value in values):
        raise NotFiniteError(f"{image}: {NOT_FINITE}")


def check_confidence(confidence: float | None, folds: bool) -> None:
    """Raises UserError on what is no confidence, or is asked of folds."""
    if confidence is None:
        return
    if not 0 < confidence < 1:
        raise UserError(f"decision.confidence is a probability between 0 and 1, such as 0.95, not {confidence}")
    if folds:
        raise UserError(
            "decision.confidence is of images that were held out, and of decision.folds none is known: leave out one"
        )
