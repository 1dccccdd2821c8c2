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
    if not len(parts.sizes):
        return []
    counts = parts.ends - parts.starts
    values = anomaly_map[mask]  # run by run, because the runs are sorted as the pixels are
    offsets = np.cumsum(counts) - counts
    sums = np.bincount(parts.owner, np.add.reduceat(values, offsets, dtype=np.float64))
    centroids = [
        np.bincount(parts.owner, counts * centres) / parts.sizes
        for centres in (parts.rows, (parts.starts + parts.ends - 1) / 2)
    ]
    order = np.argsort(parts.owner, kind="stable")  # the runs of each region, by row
    first = np.searchsorted(parts.owner[order], np.arange(len(parts.sizes)))
    rows, starts, ends = parts.rows[order], parts.starts[order], parts.ends[order]
    edges = (
        *(np.minimum.reduceat(rows, first), np.minimum.reduceat(starts, first)),
        *(np.maximum.reduceat(rows, first) + 1, np.maximum.reduceat(ends, first)),
    )
    peaks = np.maximum.reduceat(np.maximum.reduceat(values, offsets)[order], first)
    hulls = _find_convex_hulls(parts.owner[order], rows, starts, ends)
    boxes = zip(*(edge.tolist() for edge in edges), strict=True)
    centres = zip(*(each.tolist() for each in centroids), strict=True)
    numbers = zip(boxes, parts.sizes.tolist(), peaks.tolist(), sums.tolist(), centres, hulls, strict=True)
    regions = []
    for box, area, peak, total, centroid, hull in numbers:
        length, width = _fit_rectangle(hull)
        mm = mm_per_pixel
        millimetres = (None, None, None) if mm is None else (area * mm**2, length * mm, width * mm)
        regions.append(Region(box, area, peak, total / area, centroid, length, width, *millimetres))
    return sorted(regions, key=lambda region: -region.peak)


def _fit_rectangle(hull: NDArray[np.int64]) -> tuple[float, float]:
    """Return length and width of the rectangle of the smallest area, at any angle, around a convex hull (h, 2).

    One of its sides lies along an edge of the hull (Freeman and Shapira 1975, https://doi.org/10.1145/360881.360919).
    """
    edges = np.roll(hull, -1, axis=0) - hull
    along = edges / np.hypot(edges[:, 0], edges[:, 1])[:, None]
    heights, widths = (np.ptp(hull @ side.T, axis=0) for side in (along, along[:, ::-1] * [-1, 1]))
    best = np.argmin(heights * widths)
    return float(max(heights[best], widths[best])), float(min(heights[best], widths[best]))


def _find_convex_hulls(owner: Ints, rows: Ints, starts: Ints, ends: Ints) -> list[NDArray[np.int64]]:
    """Return the corners (h, 2) of the convex hull of each region, as rows and columns.

    Each region's hull has a chain of corners at its left and one at its right. In each round, all corners go that do
    not turn outwards between their neighbours, in all chains at once, until all corners that are left do.

    Args:
        owner: The region of each of r runs, ascending: (r,).
        rows: The row of each run, ascending in a region: (r,).
        starts: The first column of each run: (r,).
        ends: The column after the last one of each run: (r,).
    """
    first = np.flatnonzero((np.diff(owner, prepend=-1) != 0) | (np.diff(rows, prepend=-1) != 0))
    owner, rows = owner[first], rows[first]
    upper = np.arange(len(rows)) + owner  # a region of k rows has k + 1 lines between, above and below its rows
    number = int(owner[-1]) + 1
    lines = np.zeros((len(rows) + number, 3), np.int64)  # the region of each line, its row, its column
    for line in (upper, upper + 1):
        lines[line, 0], lines[line, 1] = owner, rows + line - upper
    chains = []
    for side, columns in ((1, np.minimum.reduceat(starts, first)), (-1, np.maximum.reduceat(ends, first))):
        lines[:, 2] = np.iinfo(np.int64).max
        for line in (upper, upper + 1):  # the right chain is mirrored, so that smaller columns lie outside in both
            lines[line, 2] = np.minimum(lines[line, 2], side * columns)
        chains.append(_keep_corners(lines) * [1, 1, side])
    cuts = [np.searchsorted(chain[:, 0], np.arange(1, number)) for chain in chains]
    halves = [np.split(chain[:, 1:], cut) for chain, cut in zip(chains, cuts, strict=True)]
    return [np.concatenate([left, right[::-1]]) for left, right in zip(*halves, strict=True)]


def _keep_corners(chains: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the corners at which chains turn outwards, and the ends of the chains.

    Args:
        chains: (p, 3): the chain of each point, its row, ascending in a chain, and its column. The outside is where
            columns are smaller.
    """
    while True:
        before, after = chains[1:-1] - chains[:-2], chains[2:] - chains[:-2]
        inwards = before[:, 1] * after[:, 2] - before[:, 2] * after[:, 1] <= 0
        keep = np.ones(len(chains), bool)
        keep[1:-1] = (after[:, 0] != 0) | ~inwards
        if keep.all():
            return chains
        chains = chains[keep]
