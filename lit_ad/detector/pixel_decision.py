"""Which pixels are anomalous, by the anomaly maps of nominal images held out of training. NumPy only.

What each rule promises (`PixelRule.kind`):

- image: the threshold lies among the maxima of the held-out maps as that of images among their scores. With a
  probability of at most r, a nominal image has any pixel above it.
- region: the same of the highest value at which a map still has a region of A pixels. With a probability of at most r,
  a nominal image has A connected pixels or more above the threshold. What is smaller is not marked.
- pixel: a share r of the held-out maps' pixels lies above the threshold, in the mean over images. So does about r of a
  new nominal image, in the mean, and provably no more than (n r + 1) / (n + 1) of n held-out images (conformal risk
  control: Angelopoulos et al., 2022, https://arxiv.org/abs/2208.02814). It is no rate of images.

How a clean-up is learned (`PixelRule.clean_up`), from the same maps and nothing else:

- A region that holds a marked pixel ends where a share `rate` of nominal pixels is as high: what is unusual for an
  image says that there is a defect, and what is unusual for a pixel says how far it reaches.
- The *grain* of the maps is how many pixels a peak of theirs has: those connected to a map's maximum above half of its
  height over the map's 99th percentile, the median over the held-out maps. What is less than half as high as the
  highest pixel no further away than the side of such a peak (the square root) is its halo, and dropped; gaps narrower
  than that are closed, holes of no more pixels are filled, and smaller regions are dropped, since no map tells such
  things from its own noise. With "region", regions of fewer than `area` pixels are dropped.

Images without a marked pixel have none after it: the rates of "image" and "region" hold for the cleaned mask as well.
That of "pixel" is of the pixels before it.
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
from lit_ad.detector.thresholds import Floats, OperatingPoint, of_category, operating_point, refuse_not_finite
from lit_ad.errors import UserError

NO_MAPS = "the held-out images of this model had no anomaly maps"


@dataclass(frozen=True)
class PixelDecision:
    """What is done about the pixels of a map. `Decision` has what the fields mean."""

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
            raise UserError(f"decision.pixel and what goes with it are for anomaly maps, and {NO_MAPS}: leave them out")
        kind, area = self.rule.kind, self.rule.area
        anew = "train anew, or take good images for it: lit-ad recalibrate FILE --nominal FOLDER --replace"
        known = set(self.pixels) == set(self.grains) == set(self.maxima)
        if self.rule.clean_up is not None and not known:
            raise UserError(
                f"decision.clean_up is learned from held-out maps, of which this model has too little: {anew}"
            )
        if kind == "pixel" and set(self.pixels) != set(self.maxima):
            raise UserError(f"decision.pixel pixel needs the pixels of held-out maps, which this model has not: {anew}")
        if kind == "region" and set(self.peaks) != set(self.maxima):
            raise UserError(
                f"decision.pixel region needs held-out maps that were looked at for regions of {area} pixels, which "
                f"those of this model were not: {anew} --pixel region --area {area}"
            )
        if kind == "pixel" and self.rate >= 0.5:
            raise UserError(f"decision.pixel_rate is {self.rate:g}, but for decision.pixel pixel it must be below 0.5")
        for category, peaks in self.peaks.items() if kind == "region" else ():
            if category in self.medians and np.median(peaks) < np.median(self.medians[category]):
                place = f" of {category}" if category else ""
                raise UserError(
                    f"decision.area is {area}, but a nominal map{place} has a connected region of so many pixels only "
                    "where more than half of its pixels are anomalous: give fewer pixels"
                )

    @property
    def rate(self) -> float:
        """The rate of nominal pixels that was asked for."""
        return self.false_alarm if self.rule.rate is None else self.rule.rate

    def operating_point(self, category: str | None) -> OperatingPoint | None:
        """The threshold, and what it stands for: a held-out image lies above it with any pixel, or with a region of
        `area` pixels. None without maps."""
        maxima = of_category(self.maxima, category)
        if not len(maxima):
            return None
        by_hand = self.by_hand.get(category if category is not None and category in self.maxima else "")
        threshold, pixels = by_hand, self.pixels_of(category)
        if threshold is None and self.rule.kind == "pixel":
            assert pixels is not None
            threshold = min(pixels.threshold(self.rate), float(maxima[-1]))
        held = of_category(self.peaks, category) if self.rule.kind == "region" else maxima
        point = operating_point(held, self.false_alarm, threshold)
        share = None if pixels is None else pixels.share_above(point.threshold)
        return replace(point, by_hand=by_hand is not None, share=share)

    def pixels_of(self, category: str | None) -> NominalPixels | None:
        """The held-out pixels of a category, or of all together; None where none were kept."""
        if set(self.pixels) != set(self.maxima):
            return None
        return self.pixels[category] if category is not None and category in self.pixels else self._all_pixels

    @cached_property
    def _all_pixels(self) -> NominalPixels:
        return NominalPixels.merged(self.pixels.values())

    def marking(self, category: str | None) -> Marking | None:
        """What is marked in maps of a category. None without maps."""
        point = self.operating_point(category)
        area = self.rule.area if self.rule.kind == "region" else None
        clean_up = None if point is None else self.clean_up(category, point.threshold)
        return None if point is None else Marking(point.threshold, area or 1, clean_up)

    def clean_up(self, category: str | None, threshold: float) -> CleanUp | None:
        """What is made of pixels above a threshold: what was given, and what is learned. None: nothing."""
        given, pixels = self.rule.clean_up, self.pixels_of(category)
        if given is None or pixels is None:
            return None
        grain = float(np.median(of_category(self.grains, category)))
        low = min(pixels.threshold(self.rate) if given.low is None else given.low, threshold)
        smallest = round(grain) if self.rule.kind != "region" else self.rule.area or 1
        return CleanUp(
            low,
            min(float(np.median(of_category(self.medians, category))), low),
            round(grain**0.5) if given.reach is None else given.reach,
            round(grain**0.5 / 2) if given.closing is None else given.closing,
            round(grain) if given.holes is None else given.holes,
            smallest if given.area is None else given.area,
        )

    def mask(self, anomaly_map: NDArray[np.float32], category: str | None, inside: Mask | None) -> Mask:
        """Where an anomaly map is anomalous. Raises UserError if no held-out image had a map, and NotFiniteError."""
        marking = self.marking(category)
        if marking is None:
            raise UserError(f"there is no pixel threshold: {NO_MAPS}")
        refuse_not_finite("the image", anomaly_map)
        return marking(anomaly_map, inside)

    def colour_range(self, category: str | None) -> tuple[float, float] | None:
        """Where heatmap colours begin and end: the middle of nominal pixels, and as far again beyond the threshold,
        which is thus the middle of the scale. None without maps."""
        point, medians = self.operating_point(category), of_category(self.medians, category)
        if point is None or not len(medians):
            return None
        low = float(np.median(medians))
        return low, low + 2 * (point.threshold - low)
