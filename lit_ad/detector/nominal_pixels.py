"""Count the pixels of held-out anomaly maps in a histogram of bounded size, to find the threshold for a rate of pixels.

NumPy only. Each image has the same weight, whatever its size, so a share of pixels is a mean over images. Pixels below
an image's median count as the median, because no threshold lies below it.

The cells are those of `metrics.histogram`: the result of merging does not depend on the order, and the share of
held-out pixels above the end of a cell is exact. A threshold is the end of a cell, so its rate is at most the one asked
for. A slightly lower threshold inside the cell might keep the rate too; `measure_resolution` returns the share of
pixels in that cell.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_ad.metrics.histogram import Histogram, absorb, make_histogram, merge
from lit_ad.metrics.keys import KEY_BITS, decode_keys, encode_scores

CELLS = 512  # the most cells of a histogram
_UNITS = 1 << 44  # the weight of an image. Weights are integers, so sums depend on no order; 2^19 images fit into int64


@dataclass(frozen=True)
class NominalPixels:
    """The histogram of the nominal pixels of one or more images."""

    histogram: Histogram

    @classmethod
    def from_image(cls, ascending: NDArray[np.float32]) -> "NominalPixels":
        """Return the histogram of one image, from its pixels that count, (n,) ascending."""
        number = len(ascending)
        keys = encode_scores(ascending[number // 2 :])
        histogram = absorb(make_histogram(), {0: keys}, CELLS)
        histogram.counts[0, 0] += number // 2
        counts = histogram.counts * (_UNITS // number)
        return cls(Histogram(histogram.strata, histogram.cells, counts, histogram.bits))

    @classmethod
    def merge(cls, parts: Iterable["NominalPixels"]) -> "NominalPixels":
        """Return the histogram of all images of several histograms, of at least one."""
        return cls(reduce(lambda total, more: merge(total, more, CELLS), (part.histogram for part in parts)))

    def find_threshold(self, rate: float) -> float:
        """Return the lowest end of a cell that has at most a share `rate` of the held-out pixels above it."""
        cell = int(np.argmax(self._measure_shares_above() <= rate))
        return float(self._list_ends()[cell])

    def measure_share_above(self, threshold: float) -> float:
        """Return the share of the held-out pixels above a threshold. A cell around the threshold counts in full."""
        counts = self.histogram.counts[0]
        return float(counts[self._list_ends() > threshold].sum() / counts.sum())

    def measure_resolution(self, threshold: float) -> float:
        """Return the share of the held-out pixels in the cell of a threshold. A cell includes its end."""
        counts, ends = self.histogram.counts[0], self._list_ends()
        cell = min(int(np.searchsorted(ends, threshold)), len(ends) - 1)
        return float(counts[cell] / counts.sum())

    def _measure_shares_above(self) -> NDArray[np.float64]:
        """Return the share of pixels above the end of each cell, (c,)."""
        counts = self.histogram.counts[0]
        above: NDArray[np.float64] = (counts.sum() - np.cumsum(counts)) / counts.sum()
        return above

    def _list_ends(self) -> NDArray[np.float32]:
        """Return the end of each cell, which is its highest value: (c,) ascending."""
        highest = self.histogram.cells | ((1 << (KEY_BITS - self.histogram.bits)) - 1)
        return decode_keys(highest.astype(np.uint32))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        histogram = self.histogram
        return {"bits": histogram.bits, "cells": histogram.cells.tolist(), "units": histogram.counts[0].tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "NominalPixels":
        """Return the histogram of `to_dict`'s values."""
        cells, units = (np.asarray(values[name], np.int64) for name in ("cells", "units"))
        return cls(Histogram(np.zeros(1, np.int64), cells, units[None], values["bits"]))
