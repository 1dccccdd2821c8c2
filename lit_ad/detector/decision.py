"""From scores to verdicts: thresholds and p-values from nominal images held out of training. NumPy only.

Held-out and new nominal images are exchangeable, so p = (1 + #{held-out scores >= score}) / (n + 1) is a valid p-value
whatever the distribution of scores (split conformal prediction; Vovk et al., 2005; Bates et al., 2023,
https://arxiv.org/abs/2104.08279): a nominal image has p <= r with a probability of at most r.

What this promises, and what it does not:

- It holds over the draw of the held-out images and of the new one together. It is no bound for one detector, whose own
  rate may lie above r: of n = 99 and r = 0.01 it does with a probability of 0.37 (`probability_above`).
- It is exact where the held-out images set the threshold and nothing else. Where the training's epoch, or the scale of
  a method's maps, was chosen on the same images, it is approximate, and `Decision.also_chosen` says so.
- Where every nominal image trains and decides, a score is of a training that left its image out (`Decision.folds`,
  cross-conformal prediction: Vovk, 2015, https://arxiv.org/abs/1208.0806). The rate is then usually about r, and
  up to about 2 r is proven: `guarantee.bound_of_folds`.
- A threshold that was set by hand promises nothing. `Decision.operating_point` says what it stands for among the
  held-out images.
- What pixels are promised is another thing: `pixel_decision`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lit_ad.counts import format_count
from lit_ad.detector.components import Mask
from lit_ad.detector.decision_keys import DecisionKeys, DecisionSettings
from lit_ad.detector.held_out import HELD, NUMBERS, Held
from lit_ad.detector.marking import Marking
from lit_ad.detector.nominal_pixels import NominalPixels
from lit_ad.detector.pixel_decision import NO_MAPS, PixelDecision
from lit_ad.detector.pixel_rule import PixelRule
from lit_ad.detector.thresholds import (
    POOLED,
    Floats,
    OperatingPoint,
    check_confidence,
    held_out_for,
    of_category,
    operating_point,
    refuse_not_finite,
    smallest_rate,
)
from lit_ad.errors import UserError

NO_DECISION = (
    "this model has no threshold, and so gives no verdicts and no p-values: these weights have scored no held-out "
    "image. `lit-ad recalibrate FILE --nominal FOLDER` sets a threshold by good images"
)


@dataclass(frozen=True)
class Decision:
    """What is done about a score. The module's docstring says what it promises.

    Args:
        scores: Of the nominal held-out images, (n,) by category.
        maxima: Of their anomaly maps; nothing for methods without maps.
        medians: Of their anomaly maps, where colours begin.
        false_alarm: The rate of nominal images that may be called anomalous, and of what `pixel_rule` says.
        also_chosen: What else was chosen on the held-out images of a category, a phrase each: then the rate is
            approximate. Nothing: it is exact.
        by_hand: Thresholds that a person has set in place of those of the rate, by category; under "" that of images
            whose category is not known.
        pixels_by_hand: The same of pixel thresholds.
        folds: How many images of a category each fold held, which a training left out and scored, before all of them
            trained the detector. Nothing: the images took no part in training.
        peaks: Of each map, the highest value at which it has a region of `pixel_rule.area` pixels.
        pixels: The histogram of the maps' pixels, by category.
        grains: Of each map, the pixels of its highest peak (`held_out.grain`).
        pixel_rule: Which pixels are anomalous.
        confidence: That the rate of this one detector is no higher than false_alarm, over the draw of the held-out
            images. None: it is no higher in the mean over detectors.
        scaled: How many other held-out images of a category set the scale of the maps, and do not decide.

    Raises:
        UserError: No score, one that is not finite, or a rate outside (0, 1).
    """

    scores: Mapping[str, Floats]
    maxima: Mapping[str, Floats] = field(default_factory=dict)
    medians: Mapping[str, Floats] = field(default_factory=dict)
    false_alarm: float = 0.01
    also_chosen: Mapping[str, Sequence[str]] = field(default_factory=dict)
    by_hand: Mapping[str, float] = field(default_factory=dict)
    pixels_by_hand: Mapping[str, float] = field(default_factory=dict)
    folds: Mapping[str, Sequence[int]] = field(default_factory=dict)
    peaks: Mapping[str, Floats] = field(default_factory=dict)
    pixels: Mapping[str, NominalPixels] = field(default_factory=dict)
    grains: Mapping[str, Floats] = field(default_factory=dict)
    pixel_rule: PixelRule = field(default_factory=PixelRule)
    scaled: Mapping[str, int] = field(default_factory=dict)
    confidence: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.false_alarm < 1:
            raise UserError(f"decision.false_alarm is a rate between 0 and 1, not {self.false_alarm}")
        check_confidence(self.confidence, any(self.folds.values()))
        for name in NUMBERS:
            values = {
                category: np.sort(np.asarray(numbers, np.float64))
                for category, numbers in sorted(getattr(self, name).items())
            }
            wrong = [category for category, numbers in values.items() if not np.isfinite(numbers).all()]
            if wrong:
                raise UserError(
                    f"held-out nominal images of {wrong[0] or 'this model'} have {name} that are NaN or infinite: the "
                    "training has diverged; lower the learning rate"
                )
            object.__setattr__(self, name, values)
        if not any(len(numbers) for numbers in self.scores.values()):
            raise UserError("a decision needs the scores of held-out nominal images, and there are none")
        _ = self.pixel_decision  # says what does not go together

    @cached_property
    def pixel_decision(self) -> PixelDecision:
        """What is done about the pixels of a map."""
        held = (self.maxima, self.medians, self.peaks, self.pixels, self.grains)
        return PixelDecision(*held, self.pixel_rule, self.false_alarm, self.pixels_by_hand)

    @property
    def held(self) -> Held:
        """What is kept of the held-out images."""
        return {name: dict(getattr(self, name)) for name in HELD}

    def without_maps(self) -> "Decision":
        """The same for a network that gives scores alone."""
        nothing: dict[str, Any] = {name: {} for name in (*HELD, "pixels_by_hand") if name != "scores"}
        return replace(self, **nothing, pixel_rule=PixelRule())

    @property
    def settings(self) -> DecisionSettings:
        """What was asked for."""
        return DecisionSettings(self.false_alarm, self.confidence, self.pixel_rule)

    def changed(self, keys: DecisionKeys) -> "Decision":
        """The same held-out images, and another rate, confidence or rule for pixels. Thresholds set by hand stay.

        Raises UserError if the held-out images do not allow it.
        """
        settings = self.settings.changed(keys)
        rule, same = settings.pixel_rule, settings.pixel_rule.area == self.pixel_rule.area
        if not same and rule.kind != "region":
            raise UserError(f"decision.area is for decision.pixel region, and not for {rule.kind}: leave it out")
        return replace(self, **vars(settings), peaks=self.peaks if same else {})

    def with_rate(self, false_alarm: float) -> "Decision":
        """The same held-out images, and another false-alarm rate. Thresholds that were set by hand stay."""
        return self.changed(DecisionKeys(false_alarm))

    def with_threshold(self, threshold: float, category: str | None = POOLED, pixels: bool = False) -> "Decision":
        """The same with an image threshold set by hand, or a pixel threshold, of a category or of all.

        Raises:
            UserError: A threshold that is not finite, or of which nothing is known here: an unknown category, or pixels
                of a method without maps; a pixel threshold at which heatmaps would have no colours.
        """
        if not math.isfinite(threshold):
            raise UserError(f"a threshold is a finite number, not {threshold}")
        if pixels and not self.maxima:
            raise UserError(f"there is no pixel threshold to set: {NO_MAPS}")
        changed = dict.fromkeys(self._keys(category), threshold)
        if not pixels:
            return replace(self, by_hand={**self.by_hand, **changed})
        for key in changed:
            medians = of_category(self.medians, key or POOLED)
            if len(medians) and threshold <= np.median(medians):
                raise UserError(
                    f"a pixel threshold of {threshold:g} is no higher than the median {np.median(medians):.6g} of "
                    "nominal pixels, so that half of a nominal image would be anomalous: give a higher one"
                )
        return replace(self, pixels_by_hand={**self.pixels_by_hand, **changed})

    def without_threshold(self, category: str | None = POOLED) -> "Decision":
        """The same with the thresholds of the rate in place of those set by hand, of a category or of all.

        Raises UserError on an unknown category.
        """
        gone = self._keys(category)
        images, pixels = (
            {key: threshold for key, threshold in thresholds.items() if key not in gone}
            for thresholds in (self.by_hand, self.pixels_by_hand)
        )
        return replace(self, by_hand=images, pixels_by_hand=pixels)

    def _keys(self, category: str | None) -> list[str]:
        """The keys of `by_hand` that a category means: of the only one, or of None, all."""
        if category is not POOLED and category not in self.scores:
            raise UserError(f"this model has no category {category}, but {', '.join(self.scores)}")
        return ["", *self.scores] if category is POOLED or len(self.scores) == 1 else [category]

    def p_value(self, score: ArrayLike, category: str | None = POOLED) -> Any:
        """How probable a score this high or higher is of a nominal image: (...) -> (...), in [1 / (n + 1), 1].

        Raises NotFiniteError.
        """
        refuse_not_finite("the image", score)
        held = of_category(self.scores, category)
        above = len(held) - np.searchsorted(held, np.asarray(score, np.float64), side="left")
        return (1 + above) / (len(held) + 1)

    def threshold(self, category: str | None = POOLED) -> float:
        """An image is anomalous where its score lies above this."""
        return self.operating_point(category).threshold

    def pixel_threshold(self, category: str | None = POOLED) -> float | None:
        """A pixel is anomalous where the map lies above this. None without maps."""
        point = self.pixel_operating_point(category)
        return None if point is None else point.threshold

    def operating_point(self, category: str | None = POOLED) -> OperatingPoint:
        """The image threshold, and what it stands for."""
        by_hand = self.by_hand.get(category if category is not None and category in self.scores else "")
        return operating_point(of_category(self.scores, category), self.false_alarm, by_hand, self.confidence)

    def pixel_operating_point(self, category: str | None = POOLED) -> OperatingPoint | None:
        """The pixel threshold, and what it stands for. None without maps."""
        return self.pixel_decision.operating_point(category)

    def marking(self, category: str | None = POOLED) -> Marking | None:
        """Which pixels of a map are anomalous, as numbers. None without maps."""
        return self.pixel_decision.marking(category)

    def anomalous(self, score: float, category: str | None = POOLED) -> bool:
        """The verdict. Raises NotFiniteError."""
        refuse_not_finite("the image", score)
        return bool(score > self.threshold(category))

    def verdict(self, score: float, category: str | None = POOLED) -> str:
        """In a word. Raises NotFiniteError."""
        return "anomalous" if self.anomalous(score, category) else "nominal"

    def mask(self, anomaly_map: NDArray[np.float32], category: str | None = POOLED, inside: Mask | None = None) -> Mask:
        """Where an anomaly map is anomalous, (H, W) -> (H, W). `inside` (H, W): what counts of it; None: all.

        Raises UserError if no held-out image had a map, and NotFiniteError.
        """
        return self.pixel_decision.mask(anomaly_map, category, inside)

    def colour_range(self, category: str | None = POOLED) -> tuple[float, float] | None:
        """Where heatmap colours begin and end: the pixel threshold is the middle. None without maps."""
        return self.pixel_decision.colour_range(category)

    def smallest_rate(self, category: str | None = POOLED) -> float:
        """The lowest false-alarm rate that the number of held-out images allows: 1 / (n + 1) in the mean, or that with
        the confidence."""
        return smallest_rate(len(of_category(self.scores, category)), self.confidence)

    def kept_rate(self, category: str | None = POOLED) -> float:
        """The false-alarm rate that is kept: the one asked for, or the lowest that the held-out images allow."""
        return max(self.false_alarm, self.smallest_rate(category))

    def warnings(self) -> list[str]:
        """One for each category whose held-out images are too few for the rate."""
        lines = []
        for category, held in self.scores.items():
            by_hand = category in self.by_hand and (category in self.pixels_by_hand or not self.maxima)
            if self.smallest_rate(category) > self.false_alarm and not by_hand:
                place = f" of {category}" if len(self.scores) > 1 else ""
                have, more = ("nominal", "take") if self.folds.get(category) else ("held-out nominal", "hold out")
                images = f"{have} image{place} allows", f"{have} images{place} allow"
                needed = held_out_for(self.false_alarm, self.confidence)
                sure = "" if self.confidence is None else f" with {100 * self.confidence:g} % confidence"
                lowest = f"{self.smallest_rate(category):.3g}{sure}"
                lines.append(
                    f"{format_count(len(held), *images)} a false-alarm rate of {lowest} and no lower, where "
                    f"decision.false_alarm is {self.false_alarm:.3g}: {more} {needed} or more, or ask for a higher rate"
                )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for checkpoints and exported files."""
        return {
            **{name: {category: held.tolist() for category, held in getattr(self, name).items()} for name in NUMBERS},
            "pixels": {category: pixels.to_dict() for category, pixels in self.pixels.items()},
            "false_alarm": self.false_alarm,
            "also_chosen": {category: list(phrases) for category, phrases in self.also_chosen.items()},
            "by_hand": dict(self.by_hand),
            "pixels_by_hand": dict(self.pixels_by_hand),
            "folds": {category: list(images) for category, images in self.folds.items()},
            "pixel_rule": self.pixel_rule.to_dict(),
            "scaled": dict(self.scaled),
            "confidence": self.confidence,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Decision":
        """The inverse of `to_dict`."""
        values = dict(**values)  # of what is no mapping, Python says so
        pixels = {category: NominalPixels.from_dict(plain) for category, plain in values.get("pixels", {}).items()}
        return cls(**{**values, "pixels": pixels, "pixel_rule": PixelRule.from_dict(values.get("pixel_rule", {}))})
