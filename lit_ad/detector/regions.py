"""Measure the connected regions of a mask: area, peak, length and width. NumPy only."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lit_ad.detector.components import Ints, Mask, find_components

Regions = list["Region"]


@dataclass(frozen=True)
class Region:
    """A region of connected anomalous pixels (8-connected). Lengths are in pixels of the image."""

    box: tuple[int, int, int, int]  # top, left, bottom, right: the slice [top:bottom, left:right]
    area: int  # pixels
    peak: float  # the map's maximum in the region
    mean: float  # the map's mean in the region
    centroid: tuple[float, float]  # row and column
    length: float  # the longer side of the smallest rectangle around the region, at any angle
    width: float  # its shorter side
    area_mm2: float | None = None  # square millimetres; None: the size of a pixel is not known
    length_mm: float | None = None
    width_mm: float | None = None


def find_regions(mask: Mask, anomaly_map: NDArray[np.float32], mm_per_pixel: float | None = None) -> Regions:
    """Return the regions of a mask, the highest peak first.

    Args:
        mask: The anomalous pixels, (H, W).
        anomaly_map: (H, W).
        mm_per_pixel: The side of a pixel in mm, from which lengths in mm follow. None: it is not known.
    """
    parts = find_components(mask)
    order = np.argsort(parts.owner, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(parts.owner))[:-1]) if len(order) else []
    regions = [
        _measure_region(parts.rows[runs], parts.starts[runs], parts.ends[runs], anomaly_map, mm_per_pixel)
        for runs in groups
    ]
    return sorted(regions, key=lambda region: -region.peak)


def _measure_region(rows: Ints, starts: Ints, ends: Ints, anomaly_map: NDArray[np.float32], mm: float | None) -> Region:
    """Return the region that consists of n runs, sorted by row.

    A run is a row of neighbouring pixels. Three arrays (n,) describe the runs: the row of each, its first column, and
    the column after its last. `mm`: a pixel's side.
    """
    values = [anomaly_map[row, start:end] for row, start, end in zip(rows, starts, ends, strict=True)]
    counts = ends - starts
    area = int(counts.sum())
    row, column = (float((counts * centres).sum() / area) for centres in (rows, (starts + ends - 1) / 2))
    length, width = _fit_rectangle(rows, starts, ends)
    box = (int(rows[0]), int(starts.min()), int(rows[-1]) + 1, int(ends.max()))
    peak = max(float(part.max()) for part in values)
    mean = sum(float(part.sum(dtype=np.float64)) for part in values) / area
    millimetres = (None, None, None) if mm is None else (area * mm**2, length * mm, width * mm)
    return Region(box, area, peak, mean, (row, column), length, width, *millimetres)


def _fit_rectangle(rows: Ints, starts: Ints, ends: Ints) -> tuple[float, float]:
    """Return length and width of the rectangle of the smallest area, at any angle, around the pixels of n runs (see
    `_measure_region`).

    One of its sides lies along an edge of the convex hull (Freeman and Shapira 1975, https://doi.org/10.1145/360881.360919).
    """
    if len(rows) == 1:
        sides = (1.0, float(ends[0] - starts[0]))
        return max(sides), min(sides)
    hull = _find_convex_hull(rows, starts, ends)
    edges = np.diff(hull, axis=0, append=hull[:1])
    along = edges / np.hypot(edges[:, 0], edges[:, 1])[:, None]
    heights, widths = (np.ptp(hull @ side.T, axis=0) for side in (along, along[:, ::-1] * [-1, 1]))
    best = np.argmin(heights * widths)
    return float(max(heights[best], widths[best])), float(min(heights[best], widths[best]))


def _find_convex_hull(rows: Ints, starts: Ints, ends: Ints) -> NDArray[np.float64]:
    """Return the corners (h, 2) of the convex hull of n runs (see `_measure_region`), as rows and columns. The method
    is Andrew's monotone chain."""
    first = np.flatnonzero(np.diff(rows, prepend=-1))
    left, right = np.minimum.reduceat(starts, first), np.maximum.reduceat(ends, first)
    chains = []
    for columns, side in ((left, 1), (right, -1)):
        chain: list[tuple[int, int]] = []
        for row, column in zip(rows[first].tolist(), columns.tolist(), strict=True):
            for corner in ((row, column), (row + 1, column)):
                while len(chain) > 1 and side * _measure_turn(chain[-2], chain[-1], corner) <= 0:
                    chain.pop()
                if not chain or chain[-1] != corner:
                    chain.append(corner)
        chains.append(chain)
    return np.array(chains[0] + chains[1][::-1], np.float64)


def _measure_turn(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> int:
    """Return twice the signed area of a triangle, whose corners are pairs of a row and a column. Its sign tells to
    which side the path a, b, c turns."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
