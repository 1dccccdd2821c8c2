"""Metrics of a data set by its own rules, such as sPRO of MVTec LOCO or SegF1 of MVTec AD 2."""

import math
from collections import Counter
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray

from lit_ad.batch import Sample
from lit_ad.distributed import add_up
from lit_ad.evaluation.protocols import Rules
from lit_ad.evaluation.results import MEAN, POOLED, Official, Row
from lit_ad.evaluation.rows import mean_row, ratio
from lit_ad.metrics import SPRO

_RESIZED = (
    "no figures: these rules need all pixels at full resolution, but evaluation.eval_size or model.view.roi is set"
)


class OfficialScores:
    """Accumulates the official metrics of a data set while images are tested.

    It computes only the metrics that `Measurement` does not compute for every test, such as sPRO.

    Args:
        rules: The data set's rules.
        original: Whether the test compares all pixels at the original size. If not, there are no official figures.
    """

    def __init__(self, rules: Rules, original: bool = True) -> None:
        self.rules, self.original = rules, original
        self.spro = SPRO()
        # Number of images by group, label, and whether any pixel is marked.
        self.images: Counter[tuple[str, int, bool]] = Counter()

    def update(self, sample: Sample, anomaly_map: NDArray[np.float32], marked: NDArray[np.bool_] | None) -> None:
        """Add an image and its map (H, W). `marked` (H, W): the pixels called anomalous; None without a threshold."""
        if not self.original:
            return
        group = f"{sample.category}/{sample.defect}"
        if marked is not None:
            self.images[group, sample.label, bool(marked.any())] += 1
        defects = None if self.rules.defects is None else self.rules.defects(sample)
        if defects is not None:
            masks = (
                np.stack([defect.mask for defect in defects]) if defects else np.zeros((0, *anomaly_map.shape), bool)
            )
            saturation = [defect.saturation for defect in defects]
            self.spro.update(
                torch.from_numpy(anomaly_map), torch.from_numpy(masks), saturation, group, str(sample.image)
            )

    def compute(self, groups: dict[str, set[str]], rows: dict[str, Row]) -> Official:
        """Return the official figures. All processes must call it.

        Args:
            groups: The groups of each row of the results.
            rows: The metrics of every test, by row.
        """
        values = self.spro.compute_rows(groups)
        images = add_up(self.images)
        for row, members in groups.items():
            hits, false, misses = (
                sum(images[group, label, called] for group in members)
                for label, called in ((1, True), (0, True), (1, False))
            )
            values[row] |= rows[row] | {"seg_f1": rows[row]["pixel_f1"]}
            values[row]["class_f1"] = ratio(2 * hits, 2 * hits + false + misses)
        categories = sorted({group.rsplit("/", 1)[0] for group in groups[POOLED]}) if self.original else []
        figures = {f"{category}/": self._compute_figures(category, values) for category in categories}
        if len(figures) > 1:
            figures[MEAN] = mean_row(list(figures.values()))
        remarks = [*self.rules.remarks, *([] if self.original else [_RESIZED])]
        return Official(self.rules.name, dict(self.rules.metrics), list(self.rules.headline), figures, remarks)

    def _compute_figures(self, category: str, values: dict[str, Row]) -> Row:
        """Return the figures of one category."""
        pooled = values.get(f"{category}/", values[POOLED])
        names = [key for name in self.rules.metrics for key in (name, f"{name}_error_bound") if key in pooled]
        if not self.rules.subsets:
            return {name: pooled[name] for name in names}
        by_subset = {suffix: values.get(f"{category}/{kind}", {}) for kind, suffix in self.rules.subsets.items()}
        figures: Row = {}
        for name in names:
            parts = {f"{name}_{suffix}": row.get(name, math.nan) for suffix, row in by_subset.items()}
            figures |= {name: fmean(parts.values()), **parts}  # the mean of error bounds is a bound of the mean's error
        return figures
