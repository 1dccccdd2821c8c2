"""What a decision keeps of nominal images that were held out of training, and how it is collected. NumPy only."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_ad.detector.components import Mask, connected, peak_of_area
from lit_ad.detector.nominal_pixels import NominalPixels
from lit_ad.image.roi import Roi, counted

NUMBERS = ("scores", "maxima", "medians", "grains", "peaks")  # fields of Decision with a number for each image
HELD = (*NUMBERS, "pixels")
Held = dict[str, Any]  # by name of HELD, and then by category


class HeldOutImages:
    """Collects it image by image, in bounded memory but for a few numbers of each.

    Args:
        area: For whose regions maps are looked at (`PixelRule.area`); None: for none.
    """

    def __init__(self, area: int | None = None) -> None:
        self.area = area
        self.held: Held = {name: {} for name in HELD}

    def add(self, category: str, score: float, anomaly_map: NDArray[np.float32] | None, roi: Roi | None) -> None:
        """Add an image by its score and its map (H, W), of which `roi` says what counts."""
        measured: dict[str, float] = {"scores": score}
        if anomaly_map is not None:
            ascending = np.sort(counted(anomaly_map, roi), axis=None)
            middle = ascending[(len(ascending) - 1) // 2 : len(ascending) // 2 + 1]
            measured |= {"maxima": float(ascending[-1]), "medians": float(middle.mean())}
            if np.isfinite(ascending[[0, -1]]).all():  # the decision refuses others
                self._add_pixels(category, NominalPixels.of_image(ascending))
                boxed, inside = (anomaly_map, None) if roi is None else (roi.boxed(anomaly_map), roi.inside)
                measured["grains"] = grain(boxed, float(ascending[len(ascending) * 99 // 100]), inside)
                if self.area is not None:
                    measured["peaks"] = peak_of_area(boxed, self.area, inside)
        for name, value in measured.items():
            self.held[name].setdefault(category, []).append(value)

    def _add_pixels(self, category: str, pixels: NominalPixels) -> None:
        earlier = self.held["pixels"].get(category)
        self.held["pixels"][category] = pixels if earlier is None else NominalPixels.merged([earlier, pixels])


def grain(anomaly_map: NDArray[np.float32], base: float, inside: Mask | None) -> int:
    """Return the pixels of a map's highest peak: those connected to the maximum above half of its height over `base`.
    At most a hundredth of the map; `inside` (H, W): what counts of it; None: all."""
    counted_map = anomaly_map if inside is None else np.where(inside, anomaly_map, -np.inf)
    row, column = np.unravel_index(int(np.argmax(counted_map)), counted_map.shape)
    parts = connected(counted_map >= base + (counted_map[row, column] - base) / 2)
    there = (parts.rows == row) & (parts.starts <= column) & (column < parts.ends)
    return min(int(parts.sizes[parts.owner[there][0]]), max(counted_map.size // 100, 1))


def join_held(parts: Sequence[Held]) -> Held:
    """Return what is kept of the images of all parts together. Grains, peaks and pixels of a category are kept where
    all parts have them that have its maps; it is for the caller that peaks are of regions of one area."""
    joined: Held = {name: {} for name in HELD}
    for part in parts:
        for name in NUMBERS:
            for category, values in part[name].items():
                joined[name][category] = np.concatenate([joined[name].get(category, []), values])
        for category, pixels in part["pixels"].items():
            earlier = joined["pixels"].get(category)
            joined["pixels"][category] = pixels if earlier is None else NominalPixels.merged([earlier, pixels])
    for name in ("grains", "peaks", "pixels"):
        missing = {category for part in parts for category in part["maxima"] if category not in part[name]}
        joined[name] = {category: kept for category, kept in joined[name].items() if category not in missing}
    return joined
