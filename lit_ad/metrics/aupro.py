"""Area under the per-region overlap curve, as MVTec's official evaluation defines it, and by defect size.

The per-region overlap (PRO) at a threshold is the share of a region's pixels above it, averaged over the 8-connected
regions of all masks. The curve plots it against the false positive rate over all nominal pixels of all images, up to a
limit, and the area is divided by the limit (Bergmann et al., https://doi.org/10.1007/s11263-020-01400-4). All regions
of all images have the same weight.
"""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lit_ad.metrics import curves
from lit_ad.metrics.pixel import split_images
from lit_ad.metrics.state import Overlap, PixelState

Thresholds = Literal["exact", "authors"]

_AUTHORS_THRESHOLDS = 99  # num_thresholds in the evaluation code of MVTec 3D-AD, which L2BT uses
QUARTERS = {"smallest_quarter": 0.25, "smallest_half": 0.5, "smallest_three_quarters": 0.75, "all": 1.0}


class RegionMetric(PixelState):
    """Base of the metrics of regions.

    Args:
        limit: The highest false positive rate of the curve.
        thresholds: "exact": all thresholds. "authors": the 99 thresholds of L2BT's code, equidistant in rank among the
            nominal scores.
        exact: Whether every distinct score is kept. If not, scores are counted in cells (see `histogram`).

    Raises:
        ValueError: The limit is not in (0, 1], or the thresholds are unknown.
    """

    higher_is_better = True
    votes = False

    def __init__(
        self, limit: float = 0.3, thresholds: Thresholds = "exact", exact: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(exact, **kwargs)
        if not 0 < limit <= 1:
            raise ValueError(f"limit is a false positive rate in (0, 1], not {limit}")
        if thresholds not in ("exact", "authors"):
            raise ValueError(f'thresholds is "exact" or "authors", not {thresholds!r}')
        self.limit, self.thresholds = limit, thresholds

    def update(self, scores: Tensor, target: Tensor) -> None:
        """Count images: scores of any range and a target of 0 or 1, both (H, W), (B, H, W) or (B, 1, H, W).

        Raises:
            ValueError: Shapes differ, a score is NaN or infinite, or a target is not 0 or 1. The message has the
                image's index.
        """
        for name, image, mask in split_images(scores, target):
            if image.ndim == 3 and len(image) == 1:
                image, mask = image[0], mask[0]
            if image.ndim != 2:
                raise ValueError(f"{name}: regions need scores of shape (H, W), not {tuple(image.shape)}")
            self._add(image, mask, "", name)


class AUPRO(RegionMetric):
    """The area under the PRO curve up to a false positive rate of `limit`."""

    def compute(self) -> Tensor:
        """Return a float64 scalar; NaN without a region or a nominal pixel."""
        return torch.tensor(aupro(self._count_overlap(), [self.limit], self.thresholds)[0], dtype=torch.float64)

    def certificate(self) -> float:
        """Return an upper bound of the difference between `compute()` and the value from all scores, for
        `thresholds="exact"`."""
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            overlap = self._count_overlap()
        return bound_aupro_error(overlap, self.limit)


class AUPROBySize(RegionMetric):
    """AUPRO of the smallest quarter, half and three quarters of the regions, and of all regions."""

    def compute(self) -> dict[str, Tensor]:
        """Return a float64 scalar for each name of QUARTERS; NaN without a region or a nominal pixel."""
        overlap = self._count_overlap()
        values = {name: aupro(part, [self.limit], self.thresholds)[0] for name, part in split_by_size(overlap).items()}
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def split_by_size(overlap: Overlap) -> dict[str, Overlap]:
    """Return, for each name of QUARTERS, the counts of the regions up to that (linear) quantile of all region sizes."""
    sizes, number = overlap.regions()
    parts = {}
    for name, quantile in QUARTERS.items():
        keep = overlap.size <= (find_weighted_quantile(sizes, number, quantile) if len(sizes) else 0)
        columns = (overlap.cell[keep], overlap.size[keep], overlap.count[keep])
        parts[name] = Overlap(overlap.nominal, *columns, overlap.exact)
    return parts


def find_weighted_quantile(values: np.ndarray, number: np.ndarray, quantile: float) -> float:
    """Return `np.quantile(np.repeat(values, number), quantile)`, for ascending values (n,), without the repetition."""
    last = np.cumsum(number)  # one past the rank of each value's last copy
    rank = quantile * (last[-1] - 1)
    low, high = (values[np.searchsorted(last, int(np.floor(rank)) + step, side="right")] for step in (0, rank % 1 > 0))
    return float(low + (high - low) * (rank % 1))


def weigh_cells(overlap: Overlap) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each cell, the number of its nominal pixels (R,), and the sum of the weights of its regions' pixels
    (R,). The weight of a pixel is 1 / size of its region."""
    weights = np.bincount(overlap.cell, overlap.count / overlap.size, minlength=len(overlap.nominal))
    return overlap.nominal, weights


def aupro(overlap: Overlap, limits: Iterable[float], thresholds: Thresholds = "exact") -> list[float]:
    """Return the area under the PRO curve up to each false positive rate of `limits`, divided by that rate."""
    nominal, weights = weigh_cells(overlap)
    if thresholds == "authors":
        fpr, pro = _compute_authors_points(nominal, weights)
    else:
        fpr, pro = curves.cumulate_shares(nominal), curves.cumulate_shares(weights)
    return [float(np.minimum(curves.measure_area_under(fpr, pro, limit) / limit, 1)) for limit in limits]


def _compute_authors_points(nominal: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return FPR and PRO (101 points): at 99 nominal scores equidistant in rank, and the authors' points at 0 and 1."""
    up_to_cell = np.cumsum(nominal)
    if not len(up_to_cell) or not up_to_cell[-1] or not weights.sum():
        return np.array([0.0, 1.0]), np.full(2, np.nan)
    ranks = np.linspace(0, up_to_cell[-1] - 1, _AUTHORS_THRESHOLDS, dtype=np.int64)
    above = curves.cumulate_shares(weights)[::-1][1:]  # PRO strictly above each cell
    # As the authors do, FPR goes by rank: other pixels equal to the threshold count as above it.
    fpr = 1 - (ranks + 1) / up_to_cell[-1]
    pro = above[np.searchsorted(up_to_cell, ranks, side="right")]
    return np.append(fpr[::-1], 1.0), np.append(pro[::-1], 1.0)


def bound_aupro_error(overlap: Overlap, limit: float) -> float:
    """Return how much `aupro(overlap, [limit])` may change by the order of scores that share a cell."""
    nominal, weights = weigh_cells(overlap)
    ties = (nominal, weights) if overlap.exact else (np.zeros_like(nominal), np.zeros_like(weights))

    def area(nominal: np.ndarray, weights: np.ndarray) -> Any:
        fpr, pro = curves.cumulate_shares(nominal), curves.cumulate_shares(weights)
        return curves.measure_area_under(fpr, pro, limit) / limit

    return curves.bound_error(area, nominal, weights, *ties)
