"""Area under the saturated per-region overlap curve, as MVTec LOCO AD defines it.

A defect has a saturation area: so many of its pixels count as all of it. Its overlap at a threshold is
min(pixels found / saturation area, 1), averaged over the defects of all images; against the false positive rate over
all pixels of no defect, up to a limit, divided by the limit (Bergmann et al., https://doi.org/10.1007/s11263-022-01578-9).

Of a defect, min(pixels found, s) is the number found among the s of its pixels that score highest, whatever the
threshold. So only these are counted, and weigh 1 / s each: the state and the curve are those of the PRO.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_ad.metrics.aupro import aupro, aupro_error_bound
from lit_ad.metrics.groups import PixelRows, Row, percent
from lit_ad.metrics.keys import ordered_keys
from lit_ad.metrics.state import GROUP_SHIFT, checked

LIMITS = (0.01, 0.05, 0.1, 0.3, 1.0)  # of the official evaluation, whose headline is 0.05


class SPRO(PixelRows):
    """Area under the sPRO curve, by group of images.

    A row has for each false positive rate of `limits`, in percent, `spro_05`, and `spro_05_error_bound`: how far it can
    be off the value on all scores. Both are nan without any defect, or without any pixel outside of all.
    """

    higher_is_better = True
    votes = False

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
        """Count one image of a group: its map (H, W), its D defects (D, H, W) bool, which may overlap, and the number
        of pixels that saturate each; `name` is for messages.

        Raises:
            ValueError: shapes differ, a score is NaN or infinite (NotFinite), or a saturation area is not 1 to the
                defect's number of pixels; names the image.
        """
        shapes = (tuple(anomaly_map.shape), tuple(defects.shape), len(saturation))
        if anomaly_map.ndim != 2 or shapes[1] != (shapes[2], *shapes[0]) or defects.dtype != torch.bool:
            raise ValueError(
                f"{name}: a map (H, W), bool defects (D, H, W) and D saturation areas are needed, not {shapes[0]}, "
                f"{defects.dtype} {shapes[1]} and {shapes[2]}"
            )
        masks = defects.cpu().numpy()
        values, covered = checked(anomaly_map, torch.from_numpy(masks.any(axis=0)), name)
        keys, code = ordered_keys(values), self._group(group) << GROUP_SHIFT
        highest = []
        for mask, count in zip(masks, saturation, strict=True):
            inside = keys[mask]
            if not 1 <= count <= len(inside):
                raise ValueError(f"{name}: a defect of {len(inside)} pixels cannot have a saturation area of {count}")
            highest.append(np.partition(inside, len(inside) - count)[len(inside) - count :])
        self._append("pixels", keys[~covered], np.array(code))
        for scores_of_defect in highest:
            self._append("regions", scores_of_defect, np.array(code + len(scores_of_defect)))

    def _row(self, groups: Iterable[str] | None) -> Row:
        overlap, row = self._overlap(groups), {}
        for limit, value in zip(self.limits, aupro(overlap, self.limits), strict=True):
            row[f"spro_{percent(limit)}"] = value
            row[f"spro_{percent(limit)}_error_bound"] = aupro_error_bound(overlap, limit)
        return row
