"""Metrics of the test set, and the threshold that nominal validation images give."""

import json
import math
from typing import Any

import cv2
import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from lit_ad.batch import Batch, Prediction
from lit_ad.callbacks.output import content_map, original_map, run_dir, written
from lit_ad.maps import upsample
from lit_ad.metrics import ImageEvaluation, PixelEvaluation


class Evaluation(L.Callback):
    """Measure raw scores and maps, overall, per category and per defect type; write RUN/metrics.json.

    Pixels are compared at the masks' original resolution. A defect type is measured against the good images of its
    category. Validation sees nominal images only: it sets the model's threshold and the range of heatmap colours.

    Args:
        quantile: Of the nominal validation scores, the threshold above which an image is called anomalous.
        eval_size: Compare pixels at this size (int or height, width), as papers do that resize; None for the original.
        bootstrap: Resamples for 95 % intervals of the image metrics; 0 for none.
    """

    def __init__(
        self, quantile: float = 0.99, eval_size: int | tuple[int, int] | None = None, bootstrap: int = 0
    ) -> None:
        if not 0 < quantile <= 1:
            raise ValueError(f"evaluation.quantile must lie in (0, 1], not {quantile}")
        self.quantile, self.bootstrap = quantile, bootstrap
        self.eval_size = (eval_size, eval_size) if isinstance(eval_size, int) else eval_size
        self.results: dict[str, dict[str, float]] = {}

    # Validation: nominal images fix the threshold and the colours.

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.nominal: list[tuple[float, float, float]] = []  # score, median and maximum of the map

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if outputs is None:
            return
        for i, score in enumerate(outputs.score.tolist()):
            median = maximum = math.nan
            if outputs.anomaly_map is not None:
                content = content_map(outputs, batch, i)
                median, maximum = float(content.median()), float(content.max())
            self.nominal.append((score, median, maximum))

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        rows = gathered(self.nominal)
        if trainer.sanity_checking or not rows:
            return
        scores, medians, maxima = np.array(rows, dtype=np.float64).T
        pl_module.threshold.fill_(float(np.quantile(scores, self.quantile)))
        low, hottest = float(np.median(medians)), float(np.quantile(maxima, self.quantile))
        pl_module.map_range.copy_(torch.tensor([low, low + 2 * (hottest - low)]))

    # Test: every metric in one pass over the pixels.

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.directory = run_dir(trainer)
        self.pixels, self.images = PixelEvaluation(), ImageEvaluation()
        self.parts: dict[str, ImageEvaluation] = {}
        self.groups: set[tuple[str, str]] = set()
        self.seen: list[tuple[int, float]] = []  # label and score

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if outputs is None:
            return
        names = [f"{category}/{defect}" for category, defect in zip(batch.category, batch.defect, strict=True)]
        self.groups.update(zip(batch.category, batch.defect, strict=True))
        self.seen += zip(batch.label.tolist(), outputs.score.tolist(), strict=True)
        self.images.update(outputs.score.cpu(), batch.label.cpu(), names)
        for part, score in (outputs.parts or {}).items():
            self.parts.setdefault(part, ImageEvaluation()).update(score.cpu(), batch.label.cpu(), names)
        if outputs.anomaly_map is None or batch.mask is None:
            return
        for i, mask in enumerate(batch.mask):
            if mask is not None:
                self.pixels.update(*self._compared(outputs, batch, i, mask), names[i], name=batch.path[i])

    def _compared(self, prediction: Prediction, batch: Batch, i: int, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Map and mask of image i at the size they are compared at, 2 x (H, W)."""
        content = original_map(prediction, batch, i).cpu()
        if self.eval_size is None:
            return content, mask
        height, width = self.eval_size
        small = cv2.resize(mask.numpy().astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        return upsample(content[None, None], self.eval_size)[0, 0], torch.from_numpy(small).bool()

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        rows = rows_of(sorted(set(gathered(sorted(self.groups)))))
        images, pixels = self.images.compute_rows(rows, self.bootstrap), self.pixels.compute_rows(rows)
        self.results = {row: {**images[row], **pixels[row]} for row in rows}
        for part in sorted(set(gathered(sorted(self.parts)))):
            scores = self.parts.setdefault(part, ImageEvaluation()).compute_rows(rows)
            for row in rows:
                self.results[row][f"image_auroc_{part}"] = scores[row]["image_auroc"]
        self.curves = {**self.images.curves(), **self.pixels.curves()}
        self.scores = gathered(self.seen)
        for name, value in self.results["overall"].items():
            if name in COLUMNS and not math.isnan(value):
                pl_module.log(f"test/{name}", value, rank_zero_only=False, batch_size=1)
        if trainer.is_global_zero:
            report = {"threshold": none_if_nan(float(pl_module.threshold)), "rows": self.results}
            with written(self.directory / "metrics.json") as temporary:
                temporary.write_text(json.dumps(cleaned(report), indent=2) + "\n")

    def on_test_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            print("\n" + table(self.results))


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


def gathered(items: list[Any]) -> list[Any]:
    """The items of all processes, in order of rank."""
    if not dist.is_available() or not dist.is_initialized():
        return items
    shares: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(shares, items)
    return [item for share in shares for item in share]


def none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value


def cleaned(report: Any) -> Any:
    """NaN is not JSON: null instead."""
    if isinstance(report, dict):
        return {key: cleaned(value) for key, value in report.items()}
    return none_if_nan(report) if isinstance(report, float) else report


COLUMNS = ("image_auroc", "image_average_precision", "image_f1_max", "pixel_auroc", "pixel_f1_max", "aupro_30")


def table(results: dict[str, dict[str, float]]) -> str:
    """The rows as aligned text, the metrics people quote only; all are in metrics.json."""
    width = max(len(row) for row in results)
    lines = [" " * width + "  " + "  ".join(COLUMNS)]
    for row, values in results.items():
        cells = [f"{values.get(name, math.nan):.4f}".replace("nan", "") for name in COLUMNS]
        lines.append(row.ljust(width) + "  " + "  ".join(c.rjust(len(n)) for c, n in zip(cells, COLUMNS, strict=True)))
    return "\n".join(lines)
