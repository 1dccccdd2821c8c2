"""Turn scores into verdicts: thresholds and p-values from nominal images held out of training. NumPy only.

Held-out and new nominal images are exchangeable, so p = (1 + #{held-out scores >= score}) / (n + 1) is a valid p-value
whatever the distribution of scores: for each rate r, a nominal image has p <= r with a probability of at most r (split
conformal prediction; Vovk et al., 2005; Bates et al., 2023, https://arxiv.org/abs/2104.08279).

The limits of this guarantee:

- The probability is over the draw of the held-out images and of the new image together. The rate of one detector may
  lie above r: for n = 99 and r = 0.01 this happens with a probability of 0.37 (`guarantee.compute_probability_above`).
- The guarantee is exact if the held-out images serve no other purpose, and if each shows another part. Otherwise it is
  approximate, for the reasons in `Decision.also_chosen` (such as the choice of an epoch) and `Decision.repeated`.
- With folds, every nominal image both trains the detector and sets the threshold: its score comes from a training that
  left it out (`Decision.folds`; cross-conformal prediction: Vovk, 2015, https://arxiv.org/abs/1208.0806). The rate is
  then usually about r; a rate of up to about 2 r is proven (`guarantee.bound_rate_of_folds`).
- A threshold set by hand promises nothing. `Decision.operating_point` tells how many held-out images lie above it.
- The guarantee for pixels is a different one: see `pixel_decision`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
    find_operating_point,
    find_smallest_rate,
    refuse_not_finite,
    select_category,
)
from lit_ad.errors import UserError

NO_DECISION = (
    "this model has no threshold, and so gives no verdicts and no p-values: these weights have scored no held-out "
    "image. `lit-ad recalibrate FILE --nominal FOLDER` sets a threshold from good images"
)


@dataclass(frozen=True)
class Decision:
    """The thresholds of a detector, and the held-out numbers that they come from. The module's docstring says what a
    decision guarantees.

    All mappings are by category; "" is the category of images that have none. In `by_hand` and `pixels_by_hand`, the
    threshold of "" also decides about images whose category is not known.

    Methods take a category. The default, POOLED (None), stands for all categories together: all held-out images set
    one threshold, which decides about images whose category is not known.

    Args:
        scores: The scores of the nominal held-out images, (n,) for each category.
        maxima: The maximum of each of these images' anomaly maps, (n,). Empty: the method makes no maps.
        medians: The median of each map, (n,): heatmap colours begin there.
        false_alarm: The rate of nominal images that may be called anomalous. It is also the rate of `pixel_rule`.
        also_chosen: What else was chosen on the held-out images, one phrase each: the rate is then approximate.
        repeated: The categories in which several images show one part: the rate is then approximate, too.
        by_hand: Image thresholds that a person set in place of those from the rate.
        pixels_by_hand: Pixel thresholds that a person set, in the same way.
        folds: How many images each fold has. For each fold, one training left out the fold's images and then scored
            them. The detector itself was trained on all images. Empty: the images took no part in training.
        peaks: For each map, the highest value v for which the pixels >= v have a connected region of at least
            `pixel_rule.area` pixels, (n,). Empty: not measured, since only `pixel_rule.kind` "region" needs them.
        pixels: The histogram of the maps' pixels.
        grains: The number of pixels of the region around each map's maximum, (n,) (`held_out.measure_grain`).
        pixel_rule: The rule by which pixels are called anomalous.
        highest: The scores and files of the images with the highest scores, the highest first; a few of each category.
        confidence: The probability, over the draw of the held-out images, that the rate of this detector is at most
            `false_alarm`. None: only the mean rate over detectors is at most `false_alarm`.
        scaled: How many other held-out images set the scale of the maps instead of the threshold.

    Raises:
        UserError: There is no score, a number is not finite, a rate is not in (0, 1), or two settings exclude each
            other.
    """

    scores: Mapping[str, Floats]
    maxima: Mapping[str, Floats] = field(default_factory=dict)
    medians: Mapping[str, Floats] = field(default_factory=dict)
    false_alarm: float = 0.01
    also_chosen: Mapping[str, Sequence[str]] = field(default_factory=dict)
    repeated: Sequence[str] = ()
    by_hand: Mapping[str, float] = field(default_factory=dict)
    pixels_by_hand: Mapping[str, float] = field(default_factory=dict)
    folds: Mapping[str, Sequence[int]] = field(default_factory=dict)
    peaks: Mapping[str, Floats] = field(default_factory=dict)
    pixels: Mapping[str, NominalPixels] = field(default_factory=dict)
    grains: Mapping[str, Floats] = field(default_factory=dict)
    pixel_rule: PixelRule = field(default_factory=PixelRule)
    scaled: Mapping[str, int] = field(default_factory=dict)
    highest: Mapping[str, Sequence[tuple[float, str]]] = field(default_factory=dict)
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
        _ = self.pixel_decision  # raises UserError if settings exclude each other

    @cached_property
    def pixel_decision(self) -> PixelDecision:
        """The thresholds of pixels."""
        held = (self.maxima, self.medians, self.peaks, self.pixels, self.grains)
        return PixelDecision(*held, self.pixel_rule, self.false_alarm, self.pixels_by_hand)

    @property
    def held(self) -> Held:
        """The fields that hold numbers of the held-out images, by name."""
        return {name: dict(getattr(self, name)) for name in HELD}

    def without_maps(self) -> "Decision":
        """Return this decision for a network that gives scores and no maps."""
        nothing: dict[str, Any] = {name: {} for name in (*HELD, "pixels_by_hand") if name not in ("scores", "highest")}
        return replace(self, **nothing, pixel_rule=PixelRule())

    def without_names(self) -> "Decision":
        """Return this decision without the files of images: it decides the same."""
        return replace(self, highest={})

    @property
    def settings(self) -> DecisionSettings:
        """The settings that the user asked for."""
        return DecisionSettings(self.false_alarm, self.confidence, self.pixel_rule)

    def with_keys(self, keys: DecisionKeys) -> "Decision":
        """Return this decision with another rate, confidence or rule for pixels. Thresholds set by hand stay.

        Raises UserError if held-out numbers that the rule needs are missing, or two settings exclude each other.
        """
        settings = self.settings.with_keys(keys)
        rule, same = settings.pixel_rule, settings.pixel_rule.area == self.pixel_rule.area
        if not same and rule.kind != "region":
            raise UserError(f"decision.area is for decision.pixel region, and not for {rule.kind}: leave it out")
        return replace(self, **vars(settings), peaks=self.peaks if same else {})

    def with_rate(self, false_alarm: float) -> "Decision":
        """Return this decision with another false-alarm rate. Thresholds set by hand stay."""
        return self.with_keys(DecisionKeys(false_alarm))

    def with_threshold(self, threshold: float, category: str | None = POOLED, pixels: bool = False) -> "Decision":
        """Return this decision with a threshold set by hand.

        Args:
            threshold: The new threshold.
            category: The category whose threshold is set. POOLED: all.
            pixels: Whether the pixel threshold is set, instead of the image threshold.

        Raises:
            UserError: The threshold is not finite, the category is not known, the method makes no maps, or a pixel
                threshold is no higher than the median of nominal pixels.
        """
        if not math.isfinite(threshold):
            raise UserError(f"a threshold is a finite number, not {threshold}")
        if pixels and not self.maxima:
            raise UserError(f"there is no pixel threshold to set: {NO_MAPS}")
        changed = dict.fromkeys(self._list_keys(category), threshold)
        if not pixels:
            return replace(self, by_hand={**self.by_hand, **changed})
        for key in changed:
            self.pixel_decision.check_threshold(threshold, key or POOLED)
        return replace(self, pixels_by_hand={**self.pixels_by_hand, **changed})

    def without_threshold(self, category: str | None = POOLED) -> "Decision":
        """Return this decision with the thresholds that the rate sets, in place of those that were set by hand.

        `category`: the category whose thresholds change. POOLED: all. Raises UserError if it is not known.
        """
        gone = self._list_keys(category)
        images, pixels = (
            {key: threshold for key, threshold in thresholds.items() if key not in gone}
            for thresholds in (self.by_hand, self.pixels_by_hand)
        )
        return replace(self, by_hand=images, pixels_by_hand=pixels)

    def _list_keys(self, category: str | None) -> list[str]:
        """Return the keys of `by_hand` for a category; all keys for POOLED, or if there is only one category."""
        if category is not POOLED and category not in self.scores:
            raise UserError(f"this model has no category {category}: give one of {', '.join(self.scores)}")
        return ["", *self.scores] if category is POOLED or len(self.scores) == 1 else [category]

    def p_value(self, score: ArrayLike, category: str | None = POOLED) -> Any:
        """Return the probability that a nominal image has a score this high or higher: (...) -> (...), in
        [1 / (n + 1), 1].

        Raises NotFiniteError if a score is NaN or infinite.
        """
        refuse_not_finite("the image", score)
        held = select_category(self.scores, category)
        above = len(held) - held.searchsorted(score)
        return (1 + above) / (len(held) + 1)

    def threshold(self, category: str | None = POOLED) -> float:
        """Return the image threshold: an image is anomalous if its score lies above it."""
        return self.operating_point(category).threshold

    def pixel_threshold(self, category: str | None = POOLED) -> float | None:
        """Return the pixel threshold: a pixel is anomalous if the map lies above it. None without maps."""
        point = self.pixel_operating_point(category)
        return None if point is None else point.threshold

    def operating_point(self, category: str | None = POOLED) -> OperatingPoint:
        """Return the image threshold, with the number of held-out images above it."""
        known = category if category is not None and category in self.scores else POOLED
        if known not in self._points:
            by_hand = self.by_hand.get("" if known is POOLED else known)
            held = select_category(self.scores, known)
            self._points[known] = find_operating_point(held, self.false_alarm, by_hand, self.confidence)
        return self._points[known]

    @cached_property
    def _points(self) -> dict[str | None, OperatingPoint]:
        """The operating points computed so far, by category: judging one image asks for its point several times."""
        return {}

    def pixel_operating_point(self, category: str | None = POOLED) -> OperatingPoint | None:
        """Return the pixel threshold, with the number of held-out images above it. None without maps."""
        return self.pixel_decision.operating_point(category)

    def marking(self, category: str | None = POOLED) -> Marking | None:
        """Return the rule by which pixels of a map are marked, as plain numbers. None without maps."""
        return self.pixel_decision.marking(category)

    def anomalous(self, score: float, category: str | None = POOLED) -> bool:
        """Return the verdict. Raises NotFiniteError if the score is NaN or infinite."""
        refuse_not_finite("the image", score)
        return bool(score > self.threshold(category))

    def verdict(self, score: float, category: str | None = POOLED) -> str:
        """Return "anomalous" or "nominal". Raises NotFiniteError if the score is NaN or infinite."""
        return "anomalous" if self.anomalous(score, category) else "nominal"

    def mask(self, anomaly_map: NDArray[np.float32], category: str | None = POOLED, inside: Mask | None = None) -> Mask:
        """Return the anomalous pixels of a map, (H, W) -> (H, W). `inside` (H, W): the pixels that count; None: all.

        Raises:
            UserError: No held-out image had a map.
            NotFiniteError: The map has NaN or infinity.
        """
        return self.pixel_decision.mask(anomaly_map, category, inside)

    def colour_range(self, category: str | None = POOLED) -> tuple[float, float] | None:
        """Return where heatmap colours begin and end: the pixel threshold is the middle. None without maps."""
        return self.pixel_decision.colour_range(category)

    def smallest_rate(self, category: str | None = POOLED) -> float:
        """Return the lowest false-alarm rate that the held-out images allow, with `confidence` if there is one."""
        return find_smallest_rate(len(select_category(self.scores, category)), self.confidence)

    def kept_rate(self, category: str | None = POOLED) -> float:
        """Return the rate in effect: the one asked for, or, if higher, the lowest that the held-out images allow."""
        return max(self.false_alarm, self.smallest_rate(category))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for checkpoints and exported files."""
        return {
            **{name: {category: held.tolist() for category, held in getattr(self, name).items()} for name in NUMBERS},
            "pixels": {category: pixels.to_dict() for category, pixels in self.pixels.items()},
            **{name: getattr(self, name) for name in ("false_alarm", "confidence")},
            "also_chosen": {category: list(phrases) for category, phrases in self.also_chosen.items()},
            "repeated": list(self.repeated),
            **{name: dict(getattr(self, name)) for name in ("by_hand", "pixels_by_hand", "scaled")},
            "folds": {category: list(images) for category, images in self.folds.items()},
            "pixel_rule": self.pixel_rule.to_dict(),
            "highest": {category: [list(image) for image in images] for category, images in self.highest.items()},
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Decision":
        """Return the decision of `to_dict`'s values. Raises TypeError if they are no mapping."""
        values = dict(**values)  # raises TypeError
        pixels = {category: NominalPixels.from_dict(plain) for category, plain in values.get("pixels", {}).items()}
        return cls(**{**values, "pixels": pixels, "pixel_rule": PixelRule.from_dict(values.get("pixel_rule", {}))})
