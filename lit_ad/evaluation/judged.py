"""A judged image. It is made once, and handed to all metrics and sinks."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_ad.batch import Batch, Sample
from lit_ad.detector.decision import Decision
from lit_ad.detector.marking import Marking
from lit_ad.detector.regions import Region, find_regions
from lit_ad.detector.scoring import Judgement
from lit_ad.image.pixels import Pixels, Size
from lit_ad.image.roi import Roi
from lit_ad.image.view import Floats, View, pad_to_content, visible_box


@dataclass(frozen=True)
class Judged:
    """An image with its ground truth, the detector's judgement, and the decision's verdict."""

    sample: Sample
    index: int  # in its split
    size: Size  # (H0, W0), the size of the image file
    pixels: Pixels  # (h, w, 3): the image at the network's size, without padding; black where the view crops
    judgement: Judgement
    truth: NDArray[np.bool_] | None = None  # (H0, W0): the anomalous pixels; None without a mask
    roi: Roi | None = None  # region of interest; None: the complete image
    threshold: float | None = None  # threshold of the score; this and the fields below need a decision
    p_value: float | None = None
    marking: Marking | None = None  # rule that marks anomalous pixels; None also without maps
    colour_range: tuple[float, float] | None = None  # map values at the lowest and the highest colour of heatmaps
    verdict: str = ""  # "nominal", "anomalous", or "" without one
    mm_per_pixel: float | None = None

    @property
    def score(self) -> float:
        """The raw score; higher is more anomalous."""
        return self.judgement.score

    @cached_property
    def anomaly_map(self) -> Floats | None:
        """The map (H0, W0), resized at its first use. None for methods without maps."""
        return None if self.judgement.network_map is None else self.judgement.original_map(self.size, self.roi)

    @property
    def pixel_threshold(self) -> float | None:
        """The threshold of the map. None without a map or a decision."""
        return None if self.marking is None else self.marking.threshold

    @cached_property
    def mask(self) -> NDArray[np.bool_] | None:
        """The anomalous pixels (H0, W0). None without a map, or without a threshold for it."""
        if self.anomaly_map is None or self.marking is None:
            return None
        return self.marking(self.anomaly_map, None if self.roi is None else self.roi.make_mask(self.size))

    @property
    def regions(self) -> list[Region]:
        """The regions of connected anomalous pixels, the one with the highest peak first."""
        mask, heat = self.mask, self.anomaly_map
        return [] if mask is None or heat is None else find_regions(mask, heat, self.mm_per_pixel)

    @property
    def group(self) -> str:
        """CATEGORY/DEFECT, the group by which metrics are computed."""
        return f"{self.sample.category}/{self.sample.defect}"

    def inside_roi(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the part of (H0, W0) values in the box of the region of interest; all values without a region."""
        return values if self.roi is None else self.roi.cut_box(values)


def judge_images(judgements: list[Judgement], batch: Batch, decision: Decision | None, view: View) -> list[Judged]:
    """Combine each image of a batch with its judgement and the decision's verdict."""
    return [judge_image(judgement, batch, i, decision, view) for i, judgement in enumerate(judgements)]


def judge_image(judgement: Judgement, batch: Batch, i: int, decision: Decision | None, view: View) -> Judged:
    """Combine image i of a batch with its judgement and the decision's verdict, if its score is finite."""
    sample, mask = batch.samples[i], None if batch.masks is None else batch.masks[i]
    truth = None if mask is None else mask.numpy()
    fields = (sample, int(batch.index[i]), batch.sizes[i], content(batch, i), judgement, truth, view.region)
    if decision is None or not judgement.finite:  # there is no verdict
        return Judged(*fields)
    category, score = sample.category, judgement.score
    return Judged(
        *fields,
        threshold=decision.threshold(category),
        p_value=float(decision.p_value(score, category)),
        marking=decision.marking(category),
        colour_range=decision.colour_range(category),
        verdict=decision.verdict(score, category),
        mm_per_pixel=view.mm_per_pixel,
    )


def content(batch: Batch, i: int) -> Pixels:
    """Return image i (h, w, 3) at the network's size, without padding, and black where the view crops."""
    assert batch.pixels is not None
    top, left, bottom, right = visible_box(batch.boxes[i], batch.input_size(i))
    seen = batch.pixels[i, :, top:bottom, left:right].permute(1, 2, 0).cpu().numpy()
    shown: NDArray[np.uint8] = pad_to_content(seen, batch.boxes[i], 0)
    return shown
