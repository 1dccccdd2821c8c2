"""Area under the saturated per-region overlap curve, as MVTec LOCO AD defines it.

Each defect has a saturation area: a detector that finds this many of its pixels has found all of it. The saturated
overlap at a threshold is min(pixels found / saturation area, 1), averaged over the defects of all images. The curve
plots it against the false positive rate over all pixels outside defects, up to a limit, and the area is divided by the
limit (Bergmann et al., https://doi.org/10.1007/s11263-022-01578-9).

With a saturation area s, min(pixels found, s) is the number of pixels found among the s highest ones of the defect, at
every threshold. So only these s pixels are counted, with a weight of 1 / s each, and state and curve are those of PRO.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_ad.metrics.aupro import aupro, bound_aupro_error
from lit_ad.metrics.checks import check_scores
from lit_ad.metrics.groups import PixelRows, Row, format_percent_key
from lit_ad.metrics.keys import encode_scores
from lit_ad.metrics.state import GROUP_SHIFT

LIMITS = (0.01, 0.05, 0.1, 0.3, 1.0)  # of the official evaluation, which reports 0.05 first


class SPRO(PixelRows):
    """The area under the sPRO curve, by group of images.

    For each false positive rate of `limits`, in percent, a row has `spro_05`, and `spro_05_error_bound`: an upper bound
    of its difference from the value from all scores. Both are NaN without a defect or without a pixel outside defects.

    Raises ValueError if a limit is not in (0, 1].
    """

    higher_is_better = True
    votes = False  # the table `pixels` counts nominal pixels only

    def __init__(self, limits: Iterable[float] = LIMITS, exact: bool = False, **kwargs: Any) -> None:
        super().__init__(exact, **kwargs)
        self.limits = tuple(limits)
        if not all(0 < limit <= 1 for limit in self.limits):
            raise ValueError(f"limits are false positive rates in (0, 1], not {self.limits}")

    def update(
        self,
        anomaly_map: Tensor,
        defects: Tensor,
        saturation: Sequence[int],
        group: str = "all",
        name: str = "image",
    ) -> None:
        """Count one image.

        Args:
            anomaly_map: (H, W).
            defects: The masks of D defects, (D, H, W) bool. They may overlap.
            saturation: The saturation area of each defect, in pixels.
            group: The group of the image.
            name: The image's name in messages.

        Raises:
            ValueError: Shapes differ, a score is NaN or infinite (NotFinite), or a saturation area is not between 1 and
                the defect's number of pixels. The message names the image.
        """
        shapes = (tuple(anomaly_map.shape), tuple(defects.shape), len(saturation))
        if anomaly_map.ndim != 2 or shapes[1] != (shapes[2], *shapes[0]) or defects.dtype != torch.bool:
            raise ValueError(
                f"{name}: a map (H, W), bool defects (D, H, W) and D saturation areas are needed, not {shapes[0]}, "
                f"{defects.dtype} {shapes[1]} and {shapes[2]}"
            )
        masks = defects.cpu().numpy()
        values, covered = check_scores(anomaly_map, torch.from_numpy(masks.any(axis=0)), name)
        keys, code = encode_scores(values), self._find_group(group) << GROUP_SHIFT
        highest = []
        for mask, count in zip(masks, saturation, strict=True):
            inside = keys[mask]
            if not 1 <= count <= len(inside):
                raise ValueError(f"{name}: a defect of {len(inside)} pixels cannot have a saturation area of {count}")
            highest.append(np.partition(inside, len(inside) - count)[len(inside) - count :])
        self._append("pixels", keys[~covered], np.array(code))
        for scores_of_defect in highest:
            self._append("regions", scores_of_defect, np.array(code + len(scores_of_defect)))

    def _compute_row(self, groups: Iterable[str] | None) -> Row:
        overlap, row = self._count_overlap(groups), {}
        for limit, value in zip(self.limits, aupro(overlap, self.limits), strict=True):
            row[f"spro_{format_percent_key(limit)}"] = value
            row[f"spro_{format_percent_key(limit)}_error_bound"] = bound_aupro_error(overlap, limit)
        return row
