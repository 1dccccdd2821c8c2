"""The pixels of held-out anomaly maps as a histogram of bounded size, from which a rate of pixels gives a threshold.

Each image counts the same, whatever its size, so that a share of pixels is a mean over images. What lies below an
image's median counts as the median: no rate of anomalous pixels looks there. NumPy only.

The cells are those of `metrics.histogram`, so merging them depends on no order, and the share of held-out pixels above
the end of a cell is known exactly. A threshold is such an end: the rate that was asked for is kept. What the cells cost
is that a slightly lower threshold might keep it too; `resolution` says how many pixels lie between the two.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_ad.metrics.histogram import Histogram, absorb, empty, merge
from lit_ad.metrics.keys import KEY_BITS, ordered_keys, ordered_scores

CELLS = 512  # of a histogram
_UNITS = 1 << 44  # of an image: whole numbers, so that sums depend on no order; room for 2^19 images


@dataclass(frozen=True)
class NominalPixels:
    """A histogram of nominal pixels."""

    histogram: Histogram

    @classmethod
    def of_image(cls, ascending: NDArray[np.float32]) -> "NominalPixels":
        """That of one image's counted pixels, (n,) ascending."""
        number = len(ascending)
        keys = ordered_keys(ascending[number // 2 :])
        histogram = absorb(empty(), {0: keys}, CELLS)
        histogram.counts[0, 0] += number // 2
        counts = histogram.counts * (_UNITS // number)
        return cls(Histogram(histogram.strata, histogram.cells, counts, histogram.bits))

    @classmethod
    def merged(cls, parts: Iterable["NominalPixels"]) -> "NominalPixels":
        """That of all images of one or more others."""
        return cls(reduce(lambda total, more: merge(total, more, CELLS), (part.histogram for part in parts)))

    def threshold(self, rate: float) -> float:
        """Return the lowest end of a cell above which a share of at most `rate` of the held-out pixels lies."""
        cell = int(np.argmax(self._above() <= rate))
        return float(self._ends()[cell])

    def share_above(self, threshold: float) -> float:
        """Return the share of the held-out pixels above a threshold; of one inside a cell, all of that cell."""
        counts = self.histogram.counts[0]
        return float(counts[self._ends() > threshold].sum() / counts.sum())

    def resolution(self, threshold: float) -> float:
        """Return the share of the held-out pixels in the cell that a threshold lies in, or ends."""
        counts, ends = self.histogram.counts[0], self._ends()
        cell = min(int(np.searchsorted(ends, threshold)), len(ends) - 1)
        return float(counts[cell] / counts.sum())

    def _above(self) -> NDArray[np.float64]:
        """The share of pixels above the end of each cell, (c,)."""
        counts = self.histogram.counts[0]
        above: NDArray[np.float64] = (counts.sum() - np.cumsum(counts)) / counts.sum()
        return above

    def _ends(self) -> NDArray[np.float32]:
        """The highest value of each cell, (c,) ascending."""
        highest = self.histogram.cells | ((1 << (KEY_BITS - self.histogram.bits)) - 1)
        return ordered_scores(highest.astype(np.uint32))

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        histogram = self.histogram
        return {"bits": histogram.bits, "cells": histogram.cells.tolist(), "units": histogram.counts[0].tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "NominalPixels":
        """The inverse of `to_dict`."""
        cells, units = (np.asarray(values[name], np.int64) for name in ("cells", "units"))
        return cls(Histogram(np.zeros(1, np.int64), cells, units[None], values["bits"]))
