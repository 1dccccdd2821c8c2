"""A histogram, of bounded size, of the pixels of held-out anomaly maps. It gives the threshold for a rate of pixels.

NumPy only. Each image has the same weight, whatever its size, so a share of pixels is a mean over images. Pixels below
an image's median count as the median, because no threshold lies below it.

The cells are those of `metrics.histogram`: the result of merging does not depend on the order, and the share of
held-out pixels above the end of a cell is exact. A threshold is the end of a cell, so its rate is at most the one asked
for. A slightly lower threshold inside the cell might keep the rate too; `resolution` returns the share of pixels in
that cell.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_ad.metrics.histogram import Histogram, absorb, empty_histogram, merge
from lit_ad.metrics.keys import KEY_BITS, ordered_keys, ordered_scores

CELLS = 512  # the most cells of a histogram
_UNITS = 1 << 44  # the weight of an image. Weights are integers, so sums depend on no order; 2^19 images fit into int64


@dataclass(frozen=True)
class NominalPixels:
    """The histogram of the nominal pixels of one or more images."""

    histogram: Histogram

    @classmethod
    def of_image(cls, ascending: NDArray[np.float32]) -> "NominalPixels":
        """Return the histogram of one image, from its pixels that count, (n,) ascending."""
        number = len(ascending)
        keys = ordered_keys(ascending[number // 2 :])
        histogram = absorb(empty_histogram(), {0: keys}, CELLS)
        histogram.counts[0, 0] += number // 2
        counts = histogram.counts * (_UNITS // number)
        return cls(Histogram(histogram.strata, histogram.cells, counts, histogram.bits))

    @classmethod
    def merged(cls, parts: Iterable["NominalPixels"]) -> "NominalPixels":
        """Return the histogram of all images of several histograms, of at least one."""
        return cls(reduce(lambda total, more: merge(total, more, CELLS), (part.histogram for part in parts)))

    def threshold(self, rate: float) -> float:
        """Return the lowest end of a cell above which at most a share `rate` of the held-out pixels lies."""
        cell = int(np.argmax(self._above() <= rate))
        return float(self._ends()[cell])

    def share_above(self, threshold: float) -> float:
        """Return the share of the held-out pixels above a threshold. The whole cell counts that the threshold is in."""
        counts = self.histogram.counts[0]
        return float(counts[self._ends() > threshold].sum() / counts.sum())

    def resolution(self, threshold: float) -> float:
        """Return the share of the held-out pixels in the cell in which, or at whose end, a threshold lies."""
        counts, ends = self.histogram.counts[0], self._ends()
        cell = min(int(np.searchsorted(ends, threshold)), len(ends) - 1)
        return float(counts[cell] / counts.sum())

    def _above(self) -> NDArray[np.float64]:
        """Return the share of pixels above the end of each cell, (c,)."""
        counts = self.histogram.counts[0]
        above: NDArray[np.float64] = (counts.sum() - np.cumsum(counts)) / counts.sum()
        return above

    def _ends(self) -> NDArray[np.float32]:
        """Return the end of each cell, which is its highest value: (c,) ascending."""
        highest = self.histogram.cells | ((1 << (KEY_BITS - self.histogram.bits)) - 1)
        return ordered_scores(highest.astype(np.uint32))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        histogram = self.histogram
        return {"bits": histogram.bits, "cells": histogram.cells.tolist(), "units": histogram.counts[0].tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "NominalPixels":
        """Return the histogram of `to_dict`'s values."""
        cells, units = (np.asarray(values[name], np.int64) for name in ("cells", "units"))
        return cls(Histogram(np.zeros(1, np.int64), cells, units[None], values["bits"]))
