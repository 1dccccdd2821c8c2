"""Collect the numbers that a decision needs of nominal images held out of training. NumPy only."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_ad.detector.components import Mask, find_components, find_peak_of_area
from lit_ad.detector.nominal_pixels import NominalPixels
from lit_ad.image.roi import Roi, select_inside

NUMBERS = ("scores", "maxima", "medians", "grains", "peaks")  # fields of Decision with a number for each image
HELD = (*NUMBERS, "pixels", "highest")  # all fields of Decision that held-out images fill
Held = dict[str, Any]  # {a name of HELD: {category: numbers, pixels or names}}
_HIGHEST = 10  # names of images that are kept of each category


class HeldOutImages:
    """Collects the fields `HELD` of a `Decision`, image by image. Memory grows by a few numbers for each image.

    Args:
        area: The pixels of the smallest region for which peaks are measured (`PixelRule.area`). None: no peaks.
    """

    def __init__(self, area: int | None = None) -> None:
        self.area = area
        self.held: Held = {name: {} for name in HELD}

    def add(
        self, category: str, score: float, anomaly_map: NDArray[np.float32] | None, roi: Roi | None, image: str = ""
    ) -> None:
        """Add an image: its score, its map (H, W), the region of interest in which the map counts (None: all), and its
        file."""
        measured: dict[str, float] = {"scores": score}
        if anomaly_map is not None:
            ascending = np.sort(select_inside(anomaly_map, roi), axis=None)
            middle = ascending[(len(ascending) - 1) // 2 : len(ascending) // 2 + 1]
            measured |= {"maxima": float(ascending[-1]), "medians": float(middle.mean())}
            if np.isfinite(ascending[[0, -1]]).all():  # the decision itself refuses maps that are not finite
                self._add_pixels(category, NominalPixels.from_image(ascending))
                boxed, inside = (anomaly_map, None) if roi is None else (roi.cut_box(anomaly_map), roi.inside)
                measured["grains"] = measure_grain(boxed, float(ascending[len(ascending) * 99 // 100]), inside)
                if self.area is not None:
                    measured["peaks"] = find_peak_of_area(boxed, self.area, inside)
        for name, value in measured.items():
            self.held[name].setdefault(category, []).append(value)
        if image:
            self.held["highest"][category] = _keep_highest([*self.held["highest"].get(category, ()), (score, image)])

    def _add_pixels(self, category: str, pixels: NominalPixels) -> None:
        earlier = self.held["pixels"].get(category)
        self.held["pixels"][category] = pixels if earlier is None else NominalPixels.merge([earlier, pixels])


def measure_grain(anomaly_map: NDArray[np.float32], base: float, inside: Mask | None) -> int:
    """Return the number of pixels of a map's highest peak, but at most a hundredth of the map's pixels.

    The peak is the maximum and all pixels connected to it that are at least half as high over `base`.

    Args:
        anomaly_map: (H, W).
        base: The map value from which heights are measured.
        inside: The pixels that count, (H, W). None: all.
    """
    counted_map = anomaly_map if inside is None else np.where(inside, anomaly_map, -np.inf)
    row, column = np.unravel_index(int(np.argmax(counted_map)), counted_map.shape)
    parts = find_components(counted_map >= base + (counted_map[row, column] - base) / 2)
    run_of_maximum = (parts.rows == row) & (parts.starts <= column) & (column < parts.ends)
    return min(int(parts.sizes[parts.owner[run_of_maximum][0]]), max(counted_map.size // 100, 1))


def join_held(parts: Sequence[Held]) -> Held:
    """Return the numbers of the images of all parts together.

    If a part has maps of a category without grains, peaks or pixels, these numbers of the category are dropped. The
    caller makes sure that all peaks are of regions of the same area.
    """
    joined: Held = {name: {} for name in HELD}
    for part in parts:
        for name in NUMBERS:
            for category, values in part[name].items():
                joined[name][category] = np.concatenate([joined[name].get(category, []), values])
        for category, pixels in part["pixels"].items():
            earlier = joined["pixels"].get(category)
            joined["pixels"][category] = pixels if earlier is None else NominalPixels.merge([earlier, pixels])
        for category, images in part["highest"].items():
            joined["highest"][category] = _keep_highest([*joined["highest"].get(category, ()), *images])
    for name in ("grains", "peaks", "pixels"):
        missing = {category for part in parts for category in part["maxima"] if category not in part[name]}
        joined[name] = {category: values for category, values in joined[name].items() if category not in missing}
    return joined


def _keep_highest(images: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Return the scores and files of the images with the highest scores, the highest first."""
    return sorted(images, key=lambda image: -image[0])[:_HIGHEST]
