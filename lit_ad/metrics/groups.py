"""All metrics at once, overall and by group of images, from one pass.

A group is the finest thing ever asked for, such as "bottle/broken_large" or "bottle/good"; a row of results is any set
of groups, such as a category, or one defect type with its category's nominal images.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_ad.metrics import curves
from lit_ad.metrics.aupro import Thresholds, aupro, by_size, overlap_curve
from lit_ad.metrics.histogram import Ints
from lit_ad.metrics.image import ImageState
from lit_ad.metrics.intervals import IMAGE_CURVES, bootstrap
from lit_ad.metrics.pixel import fields
from lit_ad.metrics.state import PixelState, decoded, encoded

Row = dict[str, float]
Floats = curves.Floats


class PixelRows(PixelState):
    """Pixel metrics of named sets of groups."""

    def compute(self) -> Row:
        """The metrics over all groups."""
        return self._row(None)

    def compute_rows(self, rows: Mapping[str, Iterable[str]]) -> dict[str, Row]:
        """The metrics of each row, a set of groups by name; groups never seen count nothing.

        Merges the processes once; each of them must call it, and gets the same values.
        """
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            return {row: self._row(groups) for row, groups in rows.items()}

    def _row(self, groups: Iterable[str] | None) -> Row:
        """The metrics over some groups, or all."""
        raise NotImplementedError


class PixelEvaluation(PixelRows):
    """Every pixel metric, by group.

    A row has `pixel_auroc`, `pixel_auroc_error_bound`, `pixel_average_precision`, `pixel_f1_max`, and for each false
    positive rate of `limits`, in percent, `aupro_30` (`aupro_05.4` of 0.054), and by defect size
    `aupro_30_smallest_quarter`, `aupro_30_smallest_half`, `aupro_30_smallest_three_quarters`. What a row cannot have,
    for lack of anomalous or of nominal pixels, is nan.
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
        """Count one image, 2 x (H, W), of a group; `name` is for messages. Given `inside` (H, W), the pixels in it
        alone: a region is what of it lies inside.

        Raises:
            ValueError: shapes differ, a score is NaN or infinite (NotFinite), the mask is not 0 or 1; names the image.
        """
        if anomaly_map.ndim != 2:
            raise ValueError(f"{name}: an anomaly map of shape (H, W) is needed, not {tuple(anomaly_map.shape)}")
        self._add(anomaly_map, mask, group, name, inside)

    def groups(self) -> list[str]:
        """Groups seen by any process, sorted; every process must call it."""
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            return self._groups()

    def curves(self) -> dict[str, tuple[Floats, Floats]]:
        """Points (x, y) over all groups: `pixel_roc` and `pro`, by false positive rate. Every process must call it."""
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            counts, (nominal, weights) = self._pixels(None), overlap_curve(self._overlap(None))
            return {"pixel_roc": curves.roc(counts.nominal, counts.anomalous), "pro": curves.roc(nominal, weights)}

    def _row(self, groups: Iterable[str] | None) -> Row:
        counts = self._pixels(groups)
        pixels = (counts.nominal, counts.anomalous)
        row = {
            "pixel_auroc": float(curves.auroc(*pixels)),
            "pixel_auroc_error_bound": curves.error_bound(curves.auroc, *fields(counts)),
            "pixel_average_precision": float(curves.average_precision(*pixels)),
            "pixel_f1_max": float(curves.f1_max(*pixels)),
        }
        for name, part in by_size(self._overlap(groups)).items():
            for limit, value in zip(self.limits, aupro(part, self.limits, self.thresholds), strict=True):
                row[f"aupro_{percent(limit)}" + ("" if name == "all" else f"_{name}")] = value
        return row


class ImageEvaluation(ImageState):
    """Every image metric, by group: `image_auroc`, `image_average_precision`, `image_f1_max`.

    With bootstrap resamples each also has its 95 % interval: `image_auroc_low`, `image_auroc_high`.
    """

    kinds: ClassVar[dict[str, torch.dtype]] = {**ImageState.kinds, "names": torch.uint8}
    names: list[Tensor]  # each image's group, as `encoded` has it

    def update(
        self,
        scores: Tensor,
        labels: Tensor,
        groups: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        """Add images, 2 x (B,): scores of any range, labels 0 (nominal) or 1 (anomalous); their groups, B names.
        The images' own `names` are for messages.

        Raises:
            ValueError: lengths differ, a score is NaN or infinite (NotFinite), a label is not 0 or 1; names the image.
        """
        groups = ["all"] * len(scores) if groups is None else groups
        if len(groups) != len(scores) or any("\0" in group for group in groups):
            raise ValueError(f"{len(scores)} scores need as many groups, without zero characters, not {list(groups)}")
        self._add(scores, labels, names)
        self.names.append(encoded(groups).to(self.device))

    def compute(self) -> Row:
        """The metrics over all groups."""
        return self._row(self._counts(), 0)

    def compute_rows(self, rows: Mapping[str, Iterable[str]], bootstrap: int = 0) -> dict[str, Row]:
        """The metrics of each row, a set of groups by name, with 95 % intervals from `bootstrap` resamples if any.

        Merges the processes once; each of them must call it, and gets the same values.
        """
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            names = np.array(decoded(self._joined("names")), dtype=object)
            sets = {row: set(groups) for row, groups in rows.items()}
            keep = {row: np.array([name in groups for name in names], bool) for row, groups in sets.items()}
            return {row: self._row(self._counts(keep[row]), bootstrap) for row in rows}

    def groups(self) -> list[str]:
        """Groups seen by any process, sorted; every process must call it."""
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            return sorted(set(decoded(self._joined("names"))))

    def curves(self) -> dict[str, tuple[Floats, Floats]]:
        """Points (x, y) over all groups: `image_roc`. Every process must call it."""
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            return {"image_roc": curves.roc(*self._counts())}

    def _row(self, counts: tuple[Ints, Ints], resamples: int) -> Row:
        row = {name: float(curve(*counts)) for name, curve in IMAGE_CURVES.items()}
        if resamples:
            intervals = bootstrap(list(IMAGE_CURVES.values()), *counts, resamples=resamples)
            for name, (low, high) in zip(IMAGE_CURVES, intervals, strict=True):
                row |= {f"{name}_low": low, f"{name}_high": high}
        return row


def percent(limit: float) -> str:
    """A rate for a key, another one for every float: 0.3 -> 30, 0.05 -> 05, 0.054 -> 05.4, 0.001 -> 00.1."""
    integer, _, part = f"{Decimal(repr(float(limit))) * 100:f}".partition(".")
    part = part.rstrip("0")
    return integer.zfill(2) + (f".{part}" if part else "")
