"""Turn the pixels above a threshold into the outline of a defect: grow, sharpen, close, fill and drop regions.

NumPy only, so that all runtimes give the same mask. An image whose mask is empty keeps an empty mask.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lit_ad.detector.components import Mask, find_components


@dataclass(frozen=True)
class CleanUp:
    """The settings of the five steps, in their order. A call runs the steps.

    Args:
        low: Step 1, hysteresis (Canny, 1986, https://doi.org/10.1109/TPAMI.1986.4767851): the mask grows to all pixels
            above `low` that are connected to it (8-connected).
        base: The map value from which step 2 measures heights.
        reach: Step 2, halos: a pixel stays if it is more than half as high as the highest pixel of the mask within
            `reach` rows and columns. A map blurs a defect, and a blurred edge has half of its height where the edge
            is. 0: all pixels stay.
        closing: Step 3, gaps of up to 2 x `closing` pixels are closed, by a square with `closing` pixels on each side
            of its centre.
        holes: Step 4, holes of at most `holes` pixels are filled. A hole is background (4-connected) that does not
            touch the image's border.
        area: Step 5, regions of fewer than `area` pixels are dropped.
    """

    low: float
    base: float = 0.0
    reach: int = 0
    closing: int = 0
    holes: int = 0
    area: int = 1

    def __call__(self, anomaly_map: NDArray[np.float32], marked: Mask, inside: Mask | None = None) -> Mask:
        """Return the cleaned mask (H, W).

        Args:
            anomaly_map: (H, W).
            marked: The pixels above the threshold, (H, W).
            inside: The pixels that count, (H, W). None: all.
        """
        if not marked.any():
            return marked
        above = (anomaly_map > self.low) | marked
        parts = find_components(above if inside is None else above & inside)
        mask = parts.paint(parts.touches(marked))
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]  # no step marks a pixel outside
        sharp = drop_halos(anomaly_map[box], mask[box], self.base, self.reach)
        cleaned = fill_holes(close_gaps(sharp, self.closing), self.holes)
        if inside is not None:
            cleaned &= inside[box]
        parts = find_components(cleaned)
        mask[box] = parts.paint(parts.sizes >= self.area)
        return mask


def drop_halos(anomaly_map: NDArray[np.float32], mask: Mask, base: float, reach: int) -> Mask:
    """Return the mask (H, W) without its halos: pixels at most half as high over `base` as the mask's highest pixel
    within `reach` rows and columns."""
    if reach == 0:
        return mask
    heights = np.where(mask, anomaly_map - np.float32(base), np.float32(0))
    return mask & (heights > max_pool(heights, reach) / np.float32(2))


def max_pool(values: NDArray[np.float32], reach: int) -> NDArray[np.float32]:
    """Return, for each pixel, the highest value within `reach` rows and columns: (H, W) -> (H, W).

    The padding around the values is 0, so near the border the result is at least 0.
    """
    height, width = values.shape
    values = np.pad(values, reach)
    for axis, length in ((0, height), (1, width)):
        window, side = 1, 2 * reach + 1
        while window < side:  # the window doubles each time, until it has its full side
            step = min(window, side - window)
            count = values.shape[axis] - step
            values = np.maximum(values.take(range(count), axis), values.take(range(step, count + step), axis))
            window += step
        values = values.take(range(length), axis)
    return values


def close_gaps(mask: Mask, radius: int) -> Mask:
    """Return the morphological closing of a mask (H, W) by a square of side 2 radius + 1. Outside the image is
    background."""
    mask = np.pad(mask, radius)
    for axis in (0, 1):
        mask = _sum_windows(mask, radius, axis) > 0
    for axis in (0, 1):
        mask = _sum_windows(mask, radius, axis) == 2 * radius + 1
    return mask[radius : mask.shape[0] - radius, radius : mask.shape[1] - radius]


def _sum_windows(mask: Mask, radius: int, axis: int) -> NDArray[np.int32]:
    """Return, for each pixel, how many pixels of a mask lie within `radius` of it along an axis: (H, W) -> (H, W)."""
    length = mask.shape[axis]
    before = np.insert(np.cumsum(mask, axis=axis, dtype=np.int32), 0, 0, axis=axis)
    places = np.arange(length)
    starts, ends = np.maximum(places - radius, 0), np.minimum(places + radius + 1, length)
    return before.take(ends, axis) - before.take(starts, axis)


def fill_holes(mask: Mask, most: int) -> Mask:
    """Return a mask (H, W) in which the holes of at most `most` pixels are filled."""
    background = find_components(~mask, corners=False)
    return mask | background.paint((background.sizes <= most) & ~background.touches_border())
