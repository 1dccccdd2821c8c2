"""Area under the per-region overlap curve, as MVTec's official evaluation defines it, and by defect size.

Per-region overlap (PRO) at a threshold: the share of a region's pixels above it, averaged over the 8-connected regions
of all masks; against the false positive rate over all nominal pixels of all images, up to a limit, divided by the
limit (Bergmann et al., https://doi.org/10.1007/s11263-020-01400-4). Regions of all images weigh the same.
"""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lit_ad.metrics import curves
from lit_ad.metrics.pixel import images
from lit_ad.metrics.state import Overlap, PixelState

Thresholds = Literal["exact", "authors"]

_AUTHORS_THRESHOLDS = 99  # num_thresholds in the evaluation code of MVTec 3D-AD, and of L2BT after it
QUARTERS = {"smallest_quarter": 0.25, "smallest_half": 0.5, "smallest_three_quarters": 0.75, "all": 1.0}


class RegionMetric(PixelState):
    """A metric of regions; `exact=True` keeps every distinct score instead of cells."""

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
        """Count images, 2 x (H, W), 2 x (B, H, W) or 2 x (B, 1, H, W): scores of any range, target 0 or 1.

        Raises:
            ValueError: shapes differ, a score is NaN or infinite, a target is not 0 or 1; names the image's index.
        """
        for name, image, mask in images(scores, target):
            if image.ndim == 3 and len(image) == 1:
                image, mask = image[0], mask[0]
            if image.ndim != 2:
                raise ValueError(f"{name}: regions need scores of shape (H, W), not {tuple(image.shape)}")
            self._add(image, mask, "", name)


class AUPRO(RegionMetric):
    """Area under the PRO curve up to a false positive rate of `limit`.

    `thresholds="authors"` takes L2BT's 99 thresholds, equidistant in rank among the nominal scores, instead of all.
    """

    def compute(self) -> Tensor:
        """A float64 scalar; nan without any region, or without any nominal pixel."""
        return torch.tensor(aupro(self._overlap(), [self.limit], self.thresholds)[0], dtype=torch.float64)

    def certificate(self) -> float:
        """The most that `compute()` can be off the value on all scores, for `thresholds="exact"`."""
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            overlap = self._overlap()
        return aupro_error_bound(overlap, self.limit)


class AUPROBySize(RegionMetric):
    """AUPRO on the regions within the smallest quarter, half and three quarters of all region sizes, and on all."""

    def compute(self) -> dict[str, Tensor]:
        """A float64 scalar by name of QUARTERS; nan without any region, or without any nominal pixel."""
        overlap = self._overlap()
        values = {name: aupro(part, [self.limit], self.thresholds)[0] for name, part in by_size(overlap).items()}
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def by_size(overlap: Overlap) -> dict[str, Overlap]:
    """The same with only the regions up to a quantile (NumPy's linear one) of all region sizes, by name of QUARTERS."""
    sizes, number = overlap.regions()
    parts = {}
    for name, quantile in QUARTERS.items():
        keep = overlap.size <= (weighted_quantile(sizes, number, quantile) if len(sizes) else 0)
        chosen = (overlap.cell[keep], overlap.size[keep], overlap.count[keep])
        parts[name] = Overlap(overlap.nominal, *chosen, overlap.exact)
    return parts


def weighted_quantile(values: np.ndarray, number: np.ndarray, quantile: float) -> float:
    """`np.quantile(np.repeat(values, number), quantile)` of ascending values (n,) without repeating them."""
    last = np.cumsum(number)  # one past the rank of each value's last copy
    rank = quantile * (last[-1] - 1)
    low, high = (values[np.searchsorted(last, int(np.floor(rank)) + step, side="right")] for step in (0, rank % 1 > 0))
    return float(low + (high - low) * (rank % 1))


def overlap_curve(overlap: Overlap) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the regions' pixels by cell (R,), 1 / size each, and the nominal pixels by cell (R,)."""
    weights = np.bincount(overlap.cell, overlap.count / overlap.size, minlength=len(overlap.nominal))
    return overlap.nominal, weights


def aupro(overlap: Overlap, limits: Iterable[float], thresholds: Thresholds = "exact") -> list[float]:
    """Area under the PRO curve up to each false positive rate of `limits`, divided by it."""
    nominal, weights = overlap_curve(overlap)
    if thresholds == "authors":
        fpr, pro = _authors_points(nominal, weights)
    else:
        fpr, pro = curves.share(curves.cumulated(nominal)), curves.share(curves.cumulated(weights))
    return [float(np.minimum(curves.area(fpr, pro, limit) / limit, 1)) for limit in limits]


def _authors_points(nominal: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """FPR and PRO (101 points) above 99 nominal scores equidistant in rank, and at 0 and 1 as the authors have them."""
    seen = np.cumsum(nominal)
    if not len(seen) or not seen[-1] or not weights.sum():
        return np.array([0.0, 1.0]), np.full(2, np.nan)
    ranks = np.linspace(0, seen[-1] - 1, _AUTHORS_THRESHOLDS, dtype=np.int64)
    above = curves.share(curves.cumulated(weights))[::-1][1:]  # PRO strictly above each cell
    fpr = 1 - (ranks + 1) / seen[-1]  # by rank: pixels tied with the threshold are not looked at
    pro = above[np.searchsorted(seen, ranks, side="right")]
    return np.append(fpr[::-1], 1.0), np.append(pro[::-1], 1.0)


def aupro_error_bound(overlap: Overlap, limit: float) -> float:
    """How far scores that share a cell may move `aupro(overlap, [limit])`."""
    nominal, weights = overlap_curve(overlap)
    ties = (nominal, weights) if overlap.exact else (np.zeros_like(nominal), np.zeros_like(weights))

    def area(nominal: np.ndarray, weights: np.ndarray) -> Any:
        fpr, pro = curves.share(curves.cumulated(nominal)), curves.share(curves.cumulated(weights))
        return curves.area(fpr, pro, limit) / limit

    return curves.error_bound(area, nominal, weights, *ties)
