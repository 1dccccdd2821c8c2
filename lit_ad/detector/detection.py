"""What a detector says of one image: score, p-value, verdict, map, mask and regions."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_ad.counts import format_count
from lit_ad.detector.decision import Decision
from lit_ad.detector.painter import FOUND, GAP, outline, outlined, over_grey
from lit_ad.detector.regions import Region, regions
from lit_ad.errors import UserError
from lit_ad.files import atomic_write, resolve_path
from lit_ad.image.pixels import Pixels
from lit_ad.image.roi import Roi
from lit_ad.image.view import Box, Floats, original_map


@dataclass(frozen=True)
class Detection:
    """What a detector says of one image. Map, mask and regions are made when they are first asked for."""

    image: Pixels  # (H, W, 3) uint8, as it was judged: upright, RGB
    score: float  # raw; higher is more anomalous
    seen: Floats | None = None  # (h, w): the map of the network's input; None of image-level methods
    box: Box = (0, 0, 0, 0)  # that the image fills in it
    decision: Decision | None = None
    category: str | None = None  # whose thresholds count; None: those of all together
    roi: Roi | None = None  # what is looked at of the image; outside, the map has the lowest value that it has inside
    mm_per_pixel: float | None = None
    shown: Pixels | None = None  # (h, w, 3): what the network saw, padding included

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        if self.decision is None:
            return f"Detection(score {self.score:.4g}, no threshold, {width} x {height} pixels)"
        verdict, threshold = self.decision.verdict(self.score, self.category), self.decision.threshold(self.category)
        regions = "" if self.mask is None else f", {format_count(len(self.regions), 'region')}"
        verdict_and_score = (
            f"{verdict}, score {self.score:.4g}, threshold {threshold:.4g}, p-value {self.p_value:.3g}{regions}"
        )
        return f"Detection({verdict_and_score}, {width} x {height} pixels)"

    @property
    def p_value(self) -> float | None:
        """How probable a score this high is of a nominal image. None without held-out images."""
        return None if self.decision is None else float(self.decision.p_value(self.score, self.category))

    @property
    def anomalous(self) -> bool | None:
        """The verdict at the decision's false-alarm rate."""
        return None if self.decision is None else self.decision.anomalous(self.score, self.category)

    @cached_property
    def anomaly_map(self) -> Floats | None:
        """(H, W), raw. None of image-level methods."""
        if self.seen is None:
            return None
        height, width = self.seen.shape
        return original_map(self.seen, (height, width), self.box, (self.image.shape[0], self.image.shape[1]), self.roi)

    @cached_property
    def mask(self) -> NDArray[np.bool_] | None:
        """(H, W): anomalous pixels. None without a map, or without a threshold for it."""
        if self.anomaly_map is None or self.decision is None or self.decision.pixel_threshold(self.category) is None:
            return None
        inside = None if self.roi is None else self.roi.mask((self.image.shape[0], self.image.shape[1]))
        return self.decision.mask(self.anomaly_map, self.category, inside)

    @cached_property
    def regions(self) -> list[Region]:
        """Connected anomalous pixels, the highest peak first."""
        heat, mm = self.anomaly_map, self.mm_per_pixel
        return [] if self.mask is None or heat is None else regions(self.mask, heat, mm)

    @property
    def colour_range(self) -> tuple[float, float] | None:
        """Of heatmaps: its middle is the pixel threshold."""
        return None if self.decision is None else self.decision.colour_range(self.category)

    def heatmap(self) -> Pixels | None:
        """The map's colours over the grey image, (H, W, 3). None without a map."""
        if self.anomaly_map is None:
            return None
        low, high = self.colour_range or (float(self.anomaly_map.min()), float(self.anomaly_map.max()))
        return over_grey(self.image, np.clip((self.anomaly_map - low) / max(high - low, 1e-30), 0, 1))

    def plot(self) -> Image.Image:
        """The image, and beside it the map over the grey image, anomalous pixels outlined."""
        panels, heat = [self.image], self.heatmap()
        if heat is not None:
            panels.append(heat if self.mask is None else outlined(heat, [(outline(self.mask), FOUND)]))
        gap = np.full((self.image.shape[0], GAP, 3), 255, np.uint8)
        return Image.fromarray(np.hstack([part for panel in panels for part in (panel, gap)][:-1]))

    def save(self, path: str | Path) -> None:
        """Write `plot()` to a file of that suffix. Raises UserError if it cannot be written."""
        path = resolve_path(path)
        if path.suffix.lower() not in Image.registered_extensions():
            raise UserError(f"{path} has no suffix of an image: give .png or .jpg")
        with atomic_write(path) as temporary:
            self.plot().save(temporary, format=Image.registered_extensions()[path.suffix.lower()])
