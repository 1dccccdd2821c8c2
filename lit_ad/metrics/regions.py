"""Connected regions of a mask, 8-connected as in MVTec's evaluation."""

import cv2
import numpy as np
from numpy.typing import NDArray


def region_sizes(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Size of the region that each anomalous pixel belongs to, (H, W) -> (number of anomalous pixels,), row by row."""
    regions, sizes = label_regions(mask[bounding_box(mask)])
    pixels: NDArray[np.int64] = sizes[regions[regions > 0] - 1]
    return pixels


def bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns of the smallest box that holds all that is true in (H, W); empty where nothing is."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def label_regions(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Each pixel's region, from 1, (H, W), 0 of none; and the regions' sizes in pixels, (n,)."""
    if not mask.any():
        return np.zeros(mask.shape, np.int32), np.zeros(0, np.int64)
    # OpenCV's own statistics take four times as long as the labels.
    count, regions = cv2.connectedComponents(np.ascontiguousarray(mask).view(np.uint8), connectivity=8)
    return np.asarray(regions, np.int32), np.bincount(regions[mask], minlength=count)[1:]
