"""Compute all metrics in one pass, over all images and by group of images.

A group is the smallest set of images for which results are wanted, such as "bottle/broken_large" or "bottle/good". A
row of results is a set of groups, such as a category, or one defect type with the nominal images of its category.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_ad.metrics import curves
from lit_ad.metrics.aupro import Thresholds, aupro, split_by_size, weigh_cells
from lit_ad.metrics.histogram import Ints
from lit_ad.metrics.image import ImageState
from lit_ad.metrics.intervals import IMAGE_METRICS, bootstrap
from lit_ad.metrics.pixel import as_arguments
from lit_ad.metrics.state import PixelState, decode_names, encode_names

Row = dict[str, float]
Floats = curves.Floats


class PixelRows(PixelState):
    """Base of pixel metrics that are computed for rows."""

    def compute(self) -> Row:
        """Return the metrics over all groups."""
        return self._compute_row(None)

    def compute_rows(self, rows: Mapping[str, Iterable[str]]) -> dict[str, Row]:
        """Return the metrics of each row, which is a set of groups. Unknown groups are ignored.

        The processes are merged once. Each process must call this, and gets the same values.
        """
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            return {row: self._compute_row(groups) for row, groups in rows.items()}

    def _compute_row(self, groups: Iterable[str] | None) -> Row:
        """Return the metrics over some groups, or over all (None)."""
        raise NotImplementedError


class PixelEvaluation(PixelRows):
    """Every pixel metric, by group.

    A row has `pixel_auroc`, `pixel_auroc_error_bound`, `pixel_average_precision` and `pixel_f1_max`. For each false
    positive rate of `limits`, in percent, it has `aupro_30` (`aupro_05.4` for 0.054), and by defect size
    `aupro_30_smallest_quarter`, `aupro_30_smallest_half` and `aupro_30_smallest_three_quarters`. A metric is NaN if
    there are no anomalous or no nominal pixels.

    Args:
        limits: The highest false positive rates of the PRO curves.
        thresholds: The thresholds of the PRO curves: see `aupro.RegionMetric`.
        exact: Whether every distinct score is kept. If not, scores are counted in cells (see `histogram`).
    """

    higher_is_better = True

    def __init__(
        self,
        limits: Iterable[float] = (0.3, 0.1, 0.05, 0.01),
        thresholds: Thresholds = "exact",
        exact: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(exact, **kwargs)
        self.limits, self.thresholds = tuple(limits), thresholds

    def update(
        self,
        anomaly_map: Tensor,
        mask: Tensor,
        group: str = "all",
        name: str = "image",
        inside: NDArray[np.bool_] | None = None,
    ) -> None:
        """Count one image.

        Args:
            anomaly_map: (H, W).
            mask: The anomalous pixels, (H, W), 0 or 1.
            group: The group of the image.
            name: The image's name in messages.
            inside: The pixels that count, (H, W). Parts of a region outside it are cut off. None: all.

        Raises:
            ValueError: Shapes differ, a score is NaN or infinite (NotFinite), or the mask is not 0 or 1. The message
                names the image.
        """
        if anomaly_map.ndim != 2:
            raise ValueError(f"{name}: an anomaly map of shape (H, W) is needed, not {tuple(anomaly_map.shape)}")
        self._add(anomaly_map, mask, group, name, inside)

    def groups(self) -> list[str]:
        """Return the groups of all processes, sorted. Every process must call this."""
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            return self._list_groups()

    def curves(self) -> dict[str, tuple[Floats, Floats]]:
        """Return the curves `pixel_roc` and `pro` over all groups: false positive rates, and true positive rates or
        PRO. Every process must call this."""
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            counts, (nominal, weights) = self._count_pixels(None), weigh_cells(self._count_overlap(None))
            return {"pixel_roc": curves.roc(counts.nominal, counts.anomalous), "pro": curves.roc(nominal, weights)}

    def _compute_row(self, groups: Iterable[str] | None) -> Row:
        counts = self._count_pixels(groups)
        pixels = (counts.nominal, counts.anomalous)
        row = {
            "pixel_auroc": float(curves.auroc(*pixels)),
            "pixel_auroc_error_bound": curves.bound_error(curves.auroc, *as_arguments(counts)),
            "pixel_average_precision": float(curves.average_precision(*pixels)),
            "pixel_f1_max": float(curves.f1_max(*pixels)),
        }
        for name, part in split_by_size(self._count_overlap(groups)).items():
            for limit, value in zip(self.limits, aupro(part, self.limits, self.thresholds), strict=True):
                row[f"aupro_{format_percent_key(limit)}" + ("" if name == "all" else f"_{name}")] = value
        return row


class ImageEvaluation(ImageState):
    """Every image metric, by group: `image_auroc`, `image_average_precision`, `image_f1_max`.

    With bootstrap resamples, each also has its 95 % interval, such as `image_auroc_low` and `image_auroc_high`.
    """

    kinds: ClassVar[dict[str, torch.dtype]] = {**ImageState.kinds, "names": torch.uint8}
    names: list[Tensor]  # each image's group, from `encode_names`

    def update(
        self,
        scores: Tensor,
        labels: Tensor,
        groups: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        """Add B images.

        Args:
            scores: (B,), of any range.
            labels: (B,), 0 (nominal) or 1 (anomalous).
            groups: The group of each image. None: "all".
            names: The name of each image in messages. None: its index.

        Raises:
            ValueError: Lengths differ, a score is NaN or infinite (NotFinite), or a label is not 0 or 1. The message
                names the image.
        """
        groups = ["all"] * len(scores) if groups is None else groups
        if len(groups) != len(scores) or any("\0" in group for group in groups):
            raise ValueError(f"{len(scores)} scores need as many groups, without zero characters, not {list(groups)}")
        self._add(scores, labels, names)
        self.names.append(encode_names(groups).to(self.device))

    def compute(self) -> Row:
        """Return the metrics over all groups."""
        return self._compute_row(self._count(), 0)

    def compute_rows(self, rows: Mapping[str, Iterable[str]], bootstrap: int = 0) -> dict[str, Row]:
        """Return the metrics of each row, which is a set of groups, with 95 % intervals from `bootstrap` resamples.

        There are no intervals if `bootstrap` is 0. The processes are merged once. Each process must call this, and gets
        the same values.
        """
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            names = np.array(decode_names(self._join("names")), dtype=object)
            sets = {row: set(groups) for row, groups in rows.items()}
            keep = {row: np.array([name in groups for name in names], bool) for row, groups in sets.items()}
            return {row: self._compute_row(self._count(keep[row]), bootstrap) for row in rows}

    def groups(self) -> list[str]:
        """Return the groups of all processes, sorted. Every process must call this."""
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            return sorted(set(decode_names(self._join("names"))))

    def curves(self) -> dict[str, tuple[Floats, Floats]]:
        """Return the curve `image_roc` over all groups: false and true positive rates. Every process must call this."""
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            return {"image_roc": curves.roc(*self._count())}

    def _compute_row(self, counts: tuple[Ints, Ints], resamples: int) -> Row:
        row = {name: float(metric(*counts)) for name, metric in IMAGE_METRICS.items()}
        if resamples:
            intervals = bootstrap(list(IMAGE_METRICS.values()), *counts, resamples=resamples)
            for name, (low, high) in zip(IMAGE_METRICS, intervals, strict=True):
                row |= {f"{name}_low": low, f"{name}_high": high}
        return row


def format_percent_key(limit: float) -> str:
    """Return a rate in percent for use in a key: 0.3 -> 30, 0.05 -> 05, 0.054 -> 05.4, 0.001 -> 00.1. Different floats
    have different keys."""
    integer, _, part = f"{Decimal(repr(float(limit))) * 100:f}".partition(".")
    part = part.rstrip("0")
    return integer.zfill(2) + (f".{part}" if part else "")
