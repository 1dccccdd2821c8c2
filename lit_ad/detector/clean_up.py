"""From pixels that are surely anomalous to the outline of a defect. NumPy only, so that all runtimes give one mask.

No step makes an anomalous pixel where there was none: an image whose mask is empty keeps an empty one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lit_ad.detector.components import Mask, connected


@dataclass(frozen=True)
class CleanUp:
    """The steps in their order.

    Args:
        low: Hysteresis (Canny, 1986, https://doi.org/10.1109/TPAMI.1986.4767851): a mask grows to all pixels above this
            that are connected to it (8-connected).
        base: The value that heights are measured from.
        reach: Halos: of the grown mask, a pixel stays where the map is more than half as high as the highest pixel of
            the mask at most so many rows and columns away. A map blurs a defect, and a blurred edge has half of its
            height where the edge is. 0: all stay.
        closing: Gaps of up to twice as many pixels are closed, by a square with this many pixels around its centre.
        holes: Holes of at most so many pixels are filled (background, 4-connected, that no side of the image has a part
            in).
        area: Regions of fewer pixels are dropped.
    """

    low: float
    base: float = 0.0
    reach: int = 0
    closing: int = 0
    holes: int = 0
    area: int = 1

    def __call__(self, anomaly_map: NDArray[np.float32], marked: Mask, inside: Mask | None = None) -> Mask:
        """Return the outline (H, W) for the marked pixels of a map, 2 x (H, W). `inside` (H, W): what counts of it."""
        if not marked.any():
            return marked
        above = (anomaly_map > self.low) | marked
        parts = connected(above if inside is None else above & inside)
        mask = parts.paint(parts.touches(marked))
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]  # no step leaves it
        sharp = drop_halos(anomaly_map[box], mask[box], self.base, self.reach)
        cleaned = fill_holes(close_gaps(sharp, self.closing), self.holes)
        if inside is not None:
            cleaned &= inside[box]
        parts = connected(cleaned)
        mask[box] = parts.paint(parts.sizes >= self.area)
        return mask


def drop_halos(anomaly_map: NDArray[np.float32], mask: Mask, base: float, reach: int) -> Mask:
    """Return the pixels of a mask that are more than half as high over `base` as its highest pixel near them, 2 x
    (H, W)."""
    if reach == 0:
        return mask
    heights = np.where(mask, anomaly_map - np.float32(base), np.float32(0))
    return mask & (heights > highest_near(heights, reach) / np.float32(2))


def highest_near(values: NDArray[np.float32], reach: int) -> NDArray[np.float32]:
    """Return the highest value at most so many rows and columns away, (H, W), of values of which one is 0 or more."""
    height, width = values.shape
    values = np.pad(values, reach)
    for axis, length in ((0, height), (1, width)):
        have, side = 1, 2 * reach + 1
        while have < side:  # windows of twice as many pixels, and at last of all of them
            step = min(have, side - have)
            count = values.shape[axis] - step
            values = np.maximum(values.take(range(count), axis), values.take(range(step, count + step), axis))
            have += step
        values = values.take(range(length), axis)
    return values


def close_gaps(mask: Mask, radius: int) -> Mask:
    """Return the closing of a mask (H, W) by a square of side 2 radius + 1, as if nothing were anomalous around it."""
    mask = np.pad(mask, radius)
    for axis in (0, 1):
        mask = _window_sums(mask, radius, axis) > 0
    for axis in (0, 1):
        mask = _window_sums(mask, radius, axis) == 2 * radius + 1
    return mask[radius : mask.shape[0] - radius, radius : mask.shape[1] - radius]


def _window_sums(mask: Mask, radius: int, axis: int) -> NDArray[np.int32]:
    """Return how many pixels of a mask (H, W) lie at most `radius` away along an axis: (H, W)."""
    length = mask.shape[axis]
    before = np.insert(np.cumsum(mask, axis=axis, dtype=np.int32), 0, 0, axis=axis)
    places = np.arange(length)
    ends = np.minimum(places + radius + 1, length), np.maximum(places - radius, 0)
    return before.take(ends[0], axis) - before.take(ends[1], axis)


def fill_holes(mask: Mask, most: int) -> Mask:
    """Return a mask (H, W) with its holes of at most so many pixels filled."""
    background = connected(~mask, corners=False)
    return mask | background.paint((background.sizes <= most) & ~background.at_border())
