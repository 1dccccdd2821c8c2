"""One image as it was judged: made once, and handed to everything that measures or shows it."""

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
    """What is known of an image, what a detector says of it, and what the decision makes of that."""

    sample: Sample
    place: int  # in its split
    size: Size  # (H0, W0), of the image
    pixels: Pixels  # (h, w, 3): the content as the network saw it, without padding, black where the view crops
    judgement: Judgement
    truth: NDArray[np.bool_] | None = None  # (H0, W0): the anomalous pixels; None where no mask says so
    roi: Roi | None = None  # what is looked at of the image
    threshold: float | None = None  # of the score; the decision's are None without a decision
    p_value: float | None = None
    marking: Marking | None = None  # which pixels are anomalous; None also without maps
    colour_range: tuple[float, float] | None = None  # where the colours of heatmaps begin and end
    verdict: str = ""
    mm_per_pixel: float | None = None

    @property
    def score(self) -> float:
        """Raw; higher is more anomalous."""
        return self.judgement.score

    @cached_property
    def anomaly_map(self) -> Floats | None:
        """(H0, W0), brought there when it is first asked for. None of image-level methods."""
        return None if self.judgement.network_map is None else self.judgement.original_map(self.size, self.roi)

    @property
    def pixel_threshold(self) -> float | None:
        """Of the map. None without maps."""
        return None if self.marking is None else self.marking.threshold

    @cached_property
    def mask(self) -> NDArray[np.bool_] | None:
        """(H0, W0): the anomalous pixels. None without a map, or without a threshold for it."""
        if self.anomaly_map is None or self.marking is None:
            return None
        return self.marking(self.anomaly_map, None if self.roi is None else self.roi.mask(self.size))

    @property
    def regions(self) -> list[Region]:
        """Connected anomalous pixels, the highest peak first."""
        mask, heat = self.mask, self.anomaly_map
        return [] if mask is None or heat is None else find_regions(mask, heat, self.mm_per_pixel)

    @property
    def group(self) -> str:
        """CATEGORY/DEFECT, as metrics group images."""
        return f"{self.sample.category}/{self.sample.defect}"

    def looked_at(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the part of (H0, W0) values that the region of interest's box holds; all without a region."""
        return values if self.roi is None else self.roi.boxed(values)


def judge_images(judgements: list[Judgement], batch: Batch, decision: Decision | None, view: View) -> list[Judged]:
    """Put together what is known of each image of a batch."""
    return [judge_image(judgement, batch, i, decision, view) for i, judgement in enumerate(judgements)]


def judge_image(judgement: Judgement, batch: Batch, i: int, decision: Decision | None, view: View) -> Judged:
    """As `judge_images`, of image i."""
    sample, mask = batch.samples[i], None if batch.masks is None else batch.masks[i]
    truth = None if mask is None else mask.numpy()
    known = (sample, int(batch.index[i]), batch.sizes[i], content(batch, i), judgement, truth, view.region)
    if decision is None or not judgement.finite:  # of which there is no verdict
        return Judged(*known)
    category, score = sample.category, judgement.score
    return Judged(
        *known,
        threshold=decision.threshold(category),
        p_value=float(decision.p_value(score, category)),
        marking=decision.marking(category),
        colour_range=decision.colour_range(category),
        verdict=decision.verdict(score, category),
        mm_per_pixel=view.mm_per_pixel,
    )


def content(batch: Batch, i: int) -> Pixels:
    """Return image i as the network saw it, without padding, and black where the view crops: (h, w, 3)."""
    assert batch.pixels is not None
    top, left, bottom, right = visible_box(batch.boxes[i], batch.input_size(i))
    seen = batch.pixels[i, :, top:bottom, left:right].permute(1, 2, 0).cpu().numpy()
    shown: NDArray[np.uint8] = pad_to_content(seen, batch.boxes[i], 0)
    return shown
