"""Connected regions of a mask, 8-connected as in MVTec's evaluation."""

import cv2
import numpy as np
from numpy.typing import NDArray


def region_sizes(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Size of the region that each anomalous pixel belongs to, (H, W) -> (number of anomalous pixels,), row by row."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return np.zeros(0, np.int64)
    box = np.ascontiguousarray(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    _, labels, stats, _ = cv2.connectedComponentsWithStats(box.view(np.uint8), connectivity=8)
    sizes: NDArray[np.int64] = stats[:, cv2.CC_STAT_AREA].astype(np.int64)[labels[box]]
    return sizes
