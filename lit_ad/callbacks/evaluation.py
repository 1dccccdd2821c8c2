"""Metrics of the test set."""

import math
from typing import Any

import cv2
import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_ad.batch import Batch, Prediction
from lit_ad.files import run_directory
from lit_ad.metrics import ImageEvaluation, PixelEvaluation
from lit_ad.results import COLUMNS, ImageResult, Results, gather
from lit_ad.view import bilinear


class Evaluation(L.Callback):
    """Measure raw scores and maps, overall, per category and per defect type; write RUN/metrics.json.

    Pixels are compared at the masks' original resolution. A defect type is measured against the good images of its
    category.

    Args:
        eval_size: Compare pixels at this size (int or height, width), as papers do that resize; None for the original.
        bootstrap: Resamples for 95 % intervals of the image metrics; 0 for none.
    """

    results: Results | None = None  # of the latest test

    def __init__(self, eval_size: int | tuple[int, int] | None = None, bootstrap: int = 0) -> None:
        self.bootstrap = bootstrap
        self.eval_size = (eval_size, eval_size) if isinstance(eval_size, int) else eval_size

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.directory = run_directory(trainer)
        self.pixel_metrics, self.image_metrics = PixelEvaluation(), ImageEvaluation()
        self.parts: dict[str, ImageEvaluation] = {}
        self.seen: list[tuple[int, ImageResult]] = []  # with the image's place in the split

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if outputs is None:
            return
        groups = [f"{sample.category}/{sample.defect}" for sample in batch.samples]
        self.image_metrics.update(outputs.score.cpu(), batch.labels, groups)
        for part, score in outputs.parts.items():
            self.parts.setdefault(part, ImageEvaluation()).update(score.cpu(), batch.labels, groups)
        decision = pl_module.decision
        for i, (sample, score) in enumerate(zip(batch.samples, outputs.score.tolist(), strict=True)):
            image = ImageResult(str(sample.image), sample.category, sample.defect, sample.label, score)
            if decision is not None:
                judged = (decision.threshold(sample.category), float(decision.p_value(score, sample.category)))
                image = ImageResult(str(sample.image), sample.category, sample.defect, sample.label, score, *judged)
            self.seen.append((int(batch.index[i]), image))
            mask = batch.masks[i] if batch.masks is not None else None
            if outputs.anomaly_map is not None and mask is not None:
                anomaly_map, truth = self._compared(outputs, batch, i, mask)
                self.pixel_metrics.update(torch.from_numpy(anomaly_map), truth, groups[i], name=str(sample.image))

    def _compared(
        self, prediction: Prediction, batch: Batch, i: int, mask: Tensor
    ) -> tuple[NDArray[np.float32], Tensor]:
        """Map and mask of image i at the size they are compared at, 2 x (H, W)."""
        anomaly_map = batch.original_map(prediction, i)
        if self.eval_size is None:
            return anomaly_map, mask
        height, width = self.eval_size
        small = cv2.resize(mask.numpy().astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        return bilinear(anomaly_map, self.eval_size), torch.from_numpy(small).bool()

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        images = [image for _, image in sorted(gather(self.seen), key=lambda pair: pair[0])]
        rows = rows_of(sorted({(image.category, image.defect) for image in images}))
        of_images = self.image_metrics.compute_rows(rows, self.bootstrap)
        of_pixels = self.pixel_metrics.compute_rows(rows)
        values = {row: {**of_images[row], **of_pixels[row]} for row in rows}
        for part in sorted(set(gather(sorted(self.parts)))):
            scores = self.parts.setdefault(part, ImageEvaluation()).compute_rows(rows)
            for row in rows:
                values[row][f"image_auroc_{part}"] = scores[row]["image_auroc"]
        self.results = Results(values, images, {**self.image_metrics.curves(), **self.pixel_metrics.curves()})
        decision = pl_module.decision
        if decision is not None:
            self.results.threshold, self.results.pixel_threshold = decision.threshold(), decision.pixel_threshold()
            self.results.false_alarm = decision.false_alarm
        for name, value in values["overall"].items():
            if name in COLUMNS and not math.isnan(value):
                pl_module.log(f"test/{name}", value, rank_zero_only=False, batch_size=1)
        if trainer.is_global_zero:
            self.results.save(self.directory / "metrics.json")

    def on_test_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero and self.results is not None:
            print("\n" + self.results.table())


def rows_of(groups: list[tuple[str, str]]) -> dict[str, set[str]]:
    """The rows of a report, each with its groups: overall, each category if there are several, each defect type
    with the good images of its category."""
    rows = {"overall": {f"{category}/{defect}" for category, defect in groups}}
    categories = sorted({category for category, _ in groups})
    for category in categories:
        mine = {f"{c}/{d}" for c, d in groups if c == category}
        if len(categories) > 1:
            rows[category] = mine
        for name in sorted(mine - {f"{category}/good"}):
            rows[name if len(categories) > 1 else name.removeprefix(f"{category}/")] = {name, f"{category}/good"}
    return rows
