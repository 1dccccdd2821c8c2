"""The result of judging one image: score, p-value, verdict, map, mask and regions."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_ad.counts import format_count
from lit_ad.detector.decision import Decision
from lit_ad.detector.painter import FOUND, GAP, blend_over_grey, draw_outlines, outline
from lit_ad.detector.regions import Region, find_regions
from lit_ad.errors import UserError
from lit_ad.files import atomic_write, resolve_path
from lit_ad.image.pixels import Pixels
from lit_ad.image.roi import Roi
from lit_ad.image.view import Box, Floats, original_map


@dataclass(frozen=True)
class Detection:
    """The result of judging one image. Map, mask and regions are computed when they are first asked for."""

    image: Pixels  # (H, W, 3) uint8, as it was judged: upright, RGB
    score: float  # raw; higher is more anomalous
    network_map: Floats | None = None  # (h, w): the map at the size of the network's input; None: the method has no map
    box: Box = (0, 0, 0, 0)  # the part of the network's input that the image fills
    decision: Decision | None = None  # None: there are no thresholds
    category: str | None = None  # the category whose thresholds decide; None: those of all categories together
    roi: Roi | None = None  # the region of interest; outside it, the map has the lowest value that it has inside
    mm_per_pixel: float | None = None  # the side of a pixel of the image; None: it is not known
    network_input: Pixels | None = None  # (h, w, 3): the pixels that the network saw, padding included

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        if self.decision is None:
            return f"Detection(score {self.score:.4g}, no threshold, {width} x {height} pixels)"
        verdict, threshold = self.decision.verdict(self.score, self.category), self.decision.threshold(self.category)
        count = "" if self.mask is None else f", {format_count(len(self.regions), 'region')}"
        numbers = f"score {self.score:.4g}, threshold {threshold:.4g}, p-value {self.p_value:.3g}{count}"
        return f"Detection({verdict}, {numbers}, {width} x {height} pixels)"

    @property
    def p_value(self) -> float | None:
        """The probability that a nominal image has a score this high or higher. None without held-out images."""
        return None if self.decision is None else float(self.decision.p_value(self.score, self.category))

    @property
    def anomalous(self) -> bool | None:
        """The verdict: whether the score lies above the decision's threshold. None without a decision."""
        return None if self.decision is None else self.decision.anomalous(self.score, self.category)

    @cached_property
    def anomaly_map(self) -> Floats | None:
        """The raw map at the image's size, (H, W). None if the method makes no maps."""
        if self.network_map is None:
            return None
        canvas = (self.network_map.shape[0], self.network_map.shape[1])
        return original_map(self.network_map, canvas, self.box, (self.image.shape[0], self.image.shape[1]), self.roi)

    @cached_property
    def mask(self) -> NDArray[np.bool_] | None:
        """The anomalous pixels, (H, W). None without a map, or without a pixel threshold."""
        if self.anomaly_map is None or self.decision is None or self.decision.pixel_threshold(self.category) is None:
            return None
        inside = None if self.roi is None else self.roi.make_mask((self.image.shape[0], self.image.shape[1]))
        return self.decision.mask(self.anomaly_map, self.category, inside)

    @cached_property
    def regions(self) -> list[Region]:
        """The connected regions of the mask, the highest peak first; none without a mask."""
        heat, mm = self.anomaly_map, self.mm_per_pixel
        return [] if self.mask is None or heat is None else find_regions(self.mask, heat, mm)

    @property
    def colour_range(self) -> tuple[float, float] | None:
        """The map values at which heatmap colours begin and end: the pixel threshold is their middle."""
        return None if self.decision is None else self.decision.colour_range(self.category)

    def heatmap(self) -> Pixels | None:
        """Return the map's colours over the grey image, (H, W, 3). None without a map."""
        if self.anomaly_map is None:
            return None
        low, high = self.colour_range or (float(self.anomaly_map.min()), float(self.anomaly_map.max()))
        return blend_over_grey(self.image, np.clip((self.anomaly_map - low) / max(high - low, 1e-30), 0, 1))

    def plot(self) -> Image.Image:
        """Return a picture: the image, and beside it the heatmap with the anomalous pixels outlined."""
        panels, heat = [self.image], self.heatmap()
        if heat is not None:
            panels.append(heat if self.mask is None else draw_outlines(heat, [(outline(self.mask), FOUND)]))
        gap = np.full((self.image.shape[0], GAP, 3), 255, np.uint8)
        return Image.fromarray(np.hstack([part for panel in panels for part in (panel, gap)][:-1]))

    def save(self, path: str | Path) -> None:
        """Write `plot()` to a file, in the format that its suffix names.

        Raises:
            UserError: The suffix is no image format, or the file cannot be written.
        """
        path = resolve_path(path)
        if path.suffix.lower() not in Image.registered_extensions():
            raise UserError(f"{path} does not end in the suffix of an image format: give .png or .jpg")
        with atomic_write(path) as temporary:
            self.plot().save(temporary, format=Image.registered_extensions()[path.suffix.lower()])
