"""Connected anomalous pixels. NumPy only."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Regions = list["Region"]


@dataclass(frozen=True)
class Region:
    """Connected anomalous pixels (8-connected), in pixels of the image."""

    box: tuple[int, int, int, int]  # top, left, bottom, right: the slice [top:bottom, left:right]
    area: int
    peak: float  # the map's maximum in it


def regions(mask: NDArray[np.bool_], anomaly_map: NDArray[np.float32]) -> Regions:
    """The regions of a mask, 2 x (H, W), the highest peak first.

    Runs of each row are joined with those of the row above that touch them (union-find), so that the work grows with
    the runs and not with the pixels.
    """
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    first = np.searchsorted(rows, np.arange(mask.shape[0] + 1))
    for row in range(1, mask.shape[0]):
        above, here = int(first[row - 1]), int(first[row])
        while above < first[row] and here < first[row + 1]:
            if starts[above] <= ends[here] and starts[here] <= ends[above]:  # touch, at a corner too
                parent[root(here)] = root(above)
            if ends[above] < ends[here]:
                above += 1
            else:
                here += 1
    runs_of: dict[int, list[int]] = {}
    for run in range(len(rows)):
        runs_of.setdefault(root(run), []).append(run)
    result = []
    for runs in runs_of.values():
        top, bottom = int(rows[runs[0]]), int(rows[runs[-1]]) + 1
        box = (top, int(starts[runs].min()), bottom, int(ends[runs].max()))
        peak = max(float(anomaly_map[rows[run], starts[run] : ends[run]].max()) for run in runs)
        result.append(Region(box, int((ends[runs] - starts[runs]).sum()), peak))
    return sorted(result, key=lambda region: -region.peak)
