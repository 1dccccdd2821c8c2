"""Find the connected regions of a mask, 8-connected as in MVTec's evaluation."""

import cv2
import numpy as np
from numpy.typing import NDArray


def measure_region_sizes(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the size of each anomalous pixel's region, row by row: (H, W) -> (number of anomalous pixels,)."""
    regions, sizes = label_regions(mask[find_bounding_box(mask)])
    pixels: NDArray[np.int64] = sizes[regions[regions > 0] - 1]
    return pixels


def find_bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the rows and columns of the smallest box around all true pixels of (H, W). It is empty if there are
    none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def label_regions(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the number of each pixel's region, from 1, or 0 for no region, (H, W); and the regions' sizes in pixels,
    (n,)."""
    if not mask.any():
        return np.zeros(mask.shape, np.int32), np.zeros(0, np.int64)
    # OpenCV's own statistics take four times as long as the labels.
    count, regions = cv2.connectedComponents(np.ascontiguousarray(mask).view(np.uint8), connectivity=8)
    return np.asarray(regions, np.int32), np.bincount(regions[mask], minlength=count)[1:]
