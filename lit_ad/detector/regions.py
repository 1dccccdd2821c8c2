"""Connected anomalous pixels. NumPy only."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lit_ad.detector.components import Ints, Mask, connected

Regions = list["Region"]


@dataclass(frozen=True)
class Region:
    """Connected anomalous pixels (8-connected), in pixels of the image."""

    box: tuple[int, int, int, int]  # top, left, bottom, right: the slice [top:bottom, left:right]
    area: int
    peak: float  # the map's maximum in it
    mean: float  # of the map in it
    centroid: tuple[float, float]  # row and column
    length: float  # of the smallest rectangle around it, at any angle
    width: float  # that rectangle's shorter side
    area_mm2: float | None = None  # in square millimetres and millimetres; None: it is not known what a pixel is
    length_mm: float | None = None
    width_mm: float | None = None


def regions(mask: Mask, anomaly_map: NDArray[np.float32], mm_per_pixel: float | None = None) -> Regions:
    """The regions of a mask, 2 x (H, W), the highest peak first; lengths also in mm if it is known what a pixel is."""
    parts = connected(mask)
    order = np.argsort(parts.owner, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(parts.owner))[:-1]) if len(order) else []
    made = [
        _measure_region(parts.rows[runs], parts.starts[runs], parts.ends[runs], anomaly_map, mm_per_pixel)
        for runs in groups
    ]
    return sorted(made, key=lambda region: -region.peak)


def _measure_region(rows: Ints, starts: Ints, ends: Ints, anomaly_map: NDArray[np.float32], mm: float | None) -> Region:
    """Return the region of some runs of pixels: each run's row, first column and the one after its last, 3 x (n,), by
    row. `mm`: a pixel's side, if it is known."""
    values = [anomaly_map[row, start:end] for row, start, end in zip(rows, starts, ends, strict=True)]
    counts = ends - starts
    area = int(counts.sum())
    row, column = (float((counts * at).sum() / area) for at in (rows, (starts + ends - 1) / 2))
    length, width = _smallest_rectangle(rows, starts, ends)
    box = (int(rows[0]), int(starts.min()), int(rows[-1]) + 1, int(ends.max()))
    peak = max(float(part.max()) for part in values)
    mean = sum(float(part.sum(dtype=np.float64)) for part in values) / area
    of_mm = (None, None, None) if mm is None else (area * mm**2, length * mm, width * mm)
    return Region(box, area, peak, mean, (row, column), length, width, *of_mm)


def _smallest_rectangle(rows: Ints, starts: Ints, ends: Ints) -> tuple[float, float]:
    """Length and width of the rectangle of the smallest area, at any angle, around the runs' pixels, 3 x (n,).

    One of its sides lies along an edge of the convex hull (Freeman and Shapira 1975, https://doi.org/10.1145/360881.360919).
    """
    if len(rows) == 1:
        sides = (1.0, float(ends[0] - starts[0]))
        return max(sides), min(sides)
    hull = _convex_hull(rows, starts, ends)
    edges = np.diff(hull, axis=0, append=hull[:1])
    along = edges / np.hypot(edges[:, 0], edges[:, 1])[:, None]
    heights, widths = (np.ptp(hull @ side.T, axis=0) for side in (along, along[:, ::-1] * [-1, 1]))
    best = np.argmin(heights * widths)
    return float(max(heights[best], widths[best])), float(min(heights[best], widths[best]))


def _convex_hull(rows: Ints, starts: Ints, ends: Ints) -> NDArray[np.float64]:
    """The corners (h, 2), as row and column, of the runs' convex hull, 3 x (n,) by row (Andrew's monotone chain)."""
    first = np.flatnonzero(np.diff(rows, prepend=-1))
    left, right = np.minimum.reduceat(starts, first), np.maximum.reduceat(ends, first)
    chains = []
    for columns, side in ((left, 1), (right, -1)):
        chain: list[tuple[int, int]] = []
        for row, column in zip(rows[first].tolist(), columns.tolist(), strict=True):
            for corner in ((row, column), (row + 1, column)):
                while len(chain) > 1 and side * turn(chain[-2], chain[-1], corner) <= 0:
                    chain.pop()
                if not chain or chain[-1] != corner:
                    chain.append(corner)
        chains.append(chain)
    return np.array(chains[0] + chains[1][::-1], np.float64)


def turn(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> int:
    """Twice the signed area of a triangle of corners, each a row and a column."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
