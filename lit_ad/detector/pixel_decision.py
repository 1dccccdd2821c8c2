"""Decide which pixels are anomalous, from the anomaly maps of nominal images held out of training. NumPy only.

The guarantee of each rule (`PixelRule.kind`), for a rate r:

- image: the threshold is chosen among the maxima of the held-out maps, as the image threshold is among their scores.
  The probability that a nominal image has any pixel above it is at most r.
- region: the threshold is chosen in the same way among the highest values at which each map has a region of A pixels.
  The probability that a nominal image has A connected pixels or more above it is at most r. Smaller regions are not
  marked.
- pixel: in the mean over images, a share r of the held-out maps' pixels lies above the threshold. For new nominal
  images the mean share is about r, and provably at most (n r + 1) / (n + 1) for n held-out images (conformal risk
  control: Angelopoulos et al., 2022, https://arxiv.org/abs/2208.02814). This is no rate of images.

A clean-up (`PixelRule.clean_up`) learns its settings from the same maps and nothing else:

- A region with a marked pixel extends to all connected pixels above a lower threshold, above which a share `rate` of
  nominal pixels lies. So the higher threshold decides whether there is a defect, and the lower one how far it reaches.
- The *grain* of the maps is the size of a typical peak, in pixels: the median, over the held-out maps, of the number of
  pixels that are connected to the map's maximum and at least half as high over the map's 99th percentile. Maps do not
  resolve anything finer. So pixels less than half as high as the highest pixel within the side of a peak (the square
  root of the grain) are a halo and are dropped, gaps narrower than that side are closed, holes of at most the grain
  are filled, and smaller regions are dropped. With "region", regions of fewer than `area` pixels are dropped instead.

A clean-up marks nothing in an image without marked pixels, so the rates of "image" and "region" also hold for the
cleaned mask. The rate of "pixel" is of the pixels before the clean-up.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lit_ad.detector.clean_up import CleanUp
from lit_ad.detector.components import Mask
from lit_ad.detector.marking import Marking
from lit_ad.detector.nominal_pixels import NominalPixels
from lit_ad.detector.pixel_rule import PixelRule
from lit_ad.detector.thresholds import Floats, OperatingPoint, find_operating_point, refuse_not_finite, select_category
from lit_ad.errors import UserError

NO_MAPS = "the held-out images of this model had no anomaly maps"


@dataclass(frozen=True)
class PixelDecision:
    """The thresholds of pixels. `Decision` documents the fields.

    Raises:
        UserError: The rule needs numbers that the held-out images do not have, or its settings exclude each other.
    """

    maxima: Mapping[str, Floats]
    medians: Mapping[str, Floats]
    peaks: Mapping[str, Floats]
    pixels: Mapping[str, NominalPixels]
    grains: Mapping[str, Floats]
    rule: PixelRule
    false_alarm: float
    by_hand: Mapping[str, float]

    def __post_init__(self) -> None:
        self.rule.check()
        if not self.maxima and self.rule != PixelRule():
            raise UserError(
                f"decision.pixel and the keys that go with it are for anomaly maps, and {NO_MAPS}: leave them out"
            )
        kind, area = self.rule.kind, self.rule.area
        remedy = f"train anew{f' with decision.area {area}' if kind == 'region' else ''}"
        if len(self.maxima) == 1:  # recalibrate takes the images of one category only
            region = f" --pixel region --area {area}" if kind == "region" else ""
            remedy += f", or measure good images: lit-ad recalibrate FILE --nominal FOLDER --replace{region}"
        has_pixels = set(self.pixels) == set(self.grains) == set(self.maxima)
        if self.rule.clean_up is not None and not has_pixels:
            raise UserError(
                f"decision.clean_up is learned from held-out maps, and this model has kept too little of them: {remedy}"
            )
        if kind == "pixel" and set(self.pixels) != set(self.maxima):
            raise UserError(
                f"decision.pixel pixel needs the pixels of held-out maps, and this model has not kept them: {remedy}"
            )
        if kind == "region" and set(self.peaks) != set(self.maxima):
            raise UserError(
                f"decision.pixel region needs the peaks of held-out maps for regions of {area} pixels, and this model "
                f"has not kept them: {remedy}"
            )
        if kind == "pixel" and self.rate >= 0.5:
            raise UserError(f"decision.pixel_rate is {self.rate:g}, but for decision.pixel pixel it must be below 0.5")
        self._check_low()
        for category, peaks in self.peaks.items() if kind == "region" else ():
            if category in self.medians and np.median(peaks) < np.median(self.medians[category]):
                place = f" of {category}" if category else ""
                raise UserError(
                    f"decision.area is {area}, but a nominal map{place} has a connected region of that size only if "
                    "more than half of its pixels are anomalous: give fewer pixels"
                )

    def _check_low(self) -> None:
        """Raise UserError if `clean_up.low` is given and is no higher than the median of nominal pixels."""
        low = None if self.rule.clean_up is None else self.rule.clean_up.low
        if low is None:
            return
        for category, medians in self.medians.items():
            if low <= np.median(medians):
                place = f" of {category}" if category else ""
                raise UserError(
                    f"decision.clean_up.low is {low:g}, no higher than the median {np.median(medians):.6g} of nominal "
                    f"pixels{place}, so that a region would grow over half of a nominal image: give a higher one"
                )

    def check_threshold(self, threshold: float, category: str | None) -> None:
        """Raise UserError if a threshold set by hand is no higher than the median of a category's nominal pixels."""
        medians = select_category(self.medians, category)
        if len(medians) and threshold <= np.median(medians):
            raise UserError(
                f"a pixel threshold of {threshold:g} is no higher than the median {np.median(medians):.6g} of nominal "
                "pixels, so that half of a nominal image would be anomalous: give a higher one"
            )

    @property
    def rate(self) -> float:
        """The rate of nominal pixels that the user asked for."""
        return self.false_alarm if self.rule.rate is None else self.rule.rate

    def operating_point(self, category: str | None) -> OperatingPoint | None:
        """Return the pixel threshold, and how many held-out images lie above it with any pixel ("region": with a region
        of `area` pixels). None without maps."""
        maxima = select_category(self.maxima, category)
        if not len(maxima):
            return None
        by_hand = self.by_hand.get(category if category is not None and category in self.maxima else "")
        threshold, pixels = by_hand, self.select_pixels(category)
        if threshold is None and self.rule.kind == "pixel":
            assert pixels is not None
            threshold = min(pixels.find_threshold(self.rate), float(maxima[-1]))
        held = select_category(self.peaks, category) if self.rule.kind == "region" else maxima
        point = find_operating_point(held, self.false_alarm, threshold)
        share = None if pixels is None else pixels.measure_share_above(point.threshold)
        return replace(point, by_hand=by_hand is not None, share=share)

    def select_pixels(self, category: str | None) -> NominalPixels | None:
        """Return the held-out pixels of a category, or of all together (None, or not known). None: none were kept."""
        if set(self.pixels) != set(self.maxima):
            return None
        return self.pixels[category] if category is not None and category in self.pixels else self._all_pixels

    @cached_property
    def _all_pixels(self) -> NominalPixels:
        return NominalPixels.merge(self.pixels.values())

    def marking(self, category: str | None) -> Marking | None:
        """Return the rule by which pixels are marked in the maps of a category. None without maps."""
        point = self.operating_point(category)
        area = self.rule.area if self.rule.kind == "region" else None
        clean_up = None if point is None else self.clean_up(category, point.threshold)
        return None if point is None else Marking(point.threshold, area or 1, clean_up)

    def clean_up(self, category: str | None, threshold: float) -> CleanUp | None:
        """Return the clean-up of pixels above a threshold: settings that the user gave, and learned ones for the rest.
        None: no clean-up."""
        given, pixels = self.rule.clean_up, self.select_pixels(category)
        if given is None or pixels is None:
            return None
        grain = float(np.median(select_category(self.grains, category)))
        low = min(pixels.find_threshold(self.rate) if given.low is None else given.low, threshold)
        smallest = round(grain) if self.rule.kind != "region" else self.rule.area or 1
        return CleanUp(
            low,
            min(float(np.median(select_category(self.medians, category))), low),
            round(grain**0.5) if given.reach is None else given.reach,
            round(grain**0.5 / 2) if given.closing is None else given.closing,
            round(grain) if given.holes is None else given.holes,
            smallest if given.area is None else given.area,
        )

    def mask(self, anomaly_map: NDArray[np.float32], category: str | None, inside: Mask | None) -> Mask:
        """Return the anomalous pixels of a map (H, W): see `Decision.mask`."""
        marking = self.marking(category)
        if marking is None:
            raise UserError(f"there is no pixel threshold: {NO_MAPS}")
        refuse_not_finite("the image", anomaly_map)
        return marking(anomaly_map, inside)

    def colour_range(self, category: str | None) -> tuple[float, float] | None:
        """Return the map values at which heatmap colours begin and end. None without maps.

        They begin at the median of nominal pixels. The threshold is the middle.
        """
        point, medians = self.operating_point(category), select_category(self.medians, category)
        if point is None or not len(medians):
            return None
        low = float(np.median(medians))
        return low, low + 2 * (point.threshold - low)
