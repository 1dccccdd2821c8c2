"""Metrics of the test set."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray

from lit_ad.batch import Batch
from lit_ad.detector.guarantee import summary
from lit_ad.distributed import gather
from lit_ad.evaluation.judged import Judged, judge_images
from lit_ad.evaluation.official_scores import ByRules
from lit_ad.evaluation.report.stopwatch import device_name
from lit_ad.evaluation.results import (
    COLUMNS,
    MEAN,
    POOLED,
    SAMPLE_AUROC,
    ImageResult,
    Results,
    mean_row,
    pixel_verdict_row,
    verdict_row,
)
from lit_ad.evaluation.sinks.sink import Sink, Stage
from lit_ad.files import Writers, resolve_path, run_directory
from lit_ad.image.pixels import Size
from lit_ad.image.view import bilinear
from lit_ad.metrics import ImageEvaluation, PixelEvaluation, sample_auroc
from lit_ad.names import tell
from lit_ad.teachers.weights import fingerprint

PIXELS = (  # what is counted of an image's pixels; hits: anomalous ones above the pixel threshold; false: nominal ones
    *("nominal", "anomalous", "hits", "false"),  # at the original size, that of the pixel threshold
    *("compared nominal", "compared anomalous"),  # at the size that maps are compared at
)


class Evaluation(L.Callback):
    """Measure raw scores and maps, pooled, per category and per defect type; write RUN/metrics.json and RUN/scores.csv.

    Pixels are compared at the masks' original resolution. A defect type is measured against the good images of its
    category. Verdicts are those of the checkpoint's decision. A data set with rules of its own is measured by them too.

    Loggers get the main metrics as test/METRIC: of several categories their mean, as papers quote it, and those of all
    images together as test/pooled_METRIC.

    Args:
        eval_size: Compare pixels at this size (int or height, width), as papers do that resize; None for the original.
            Verdicts on pixels stay at the original size: the pixel threshold is that of maps there, and a smaller map
            has lower maxima.
        bootstrap: Resamples for 95 % intervals of the image metrics; 0 for none.
        sinks: What is made of every image, tested or predicted, in this order.
    """

    results: Results | None = None  # of the latest test

    def __init__(
        self, eval_size: int | tuple[int, int] | None = None, bootstrap: int = 0, sinks: Sequence[Sink] = ()
    ) -> None:
        self.bootstrap, self.sinks = bootstrap, list(sinks)
        self.eval_size = (eval_size, eval_size) if isinstance(eval_size, int) else eval_size
        self.writers = Writers()

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Raises UserError if there is no place for predictions."""
        if stage == "predict":
            self._claim(trainer, None)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: Any) -> None:
        """Now that the model is known, leave out what an interrupted prediction by it has judged."""
        if trainer.predicting:
            self._claim(trainer, fingerprint(pl_module.state_dict()))

    def _claim(self, trainer: L.Trainer, weights: str | None) -> None:
        """Find out where predictions go, and which images need not be judged again: the first process decides."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        home, claims = run_directory(trainer), []
        self.folder = None if data.predict_path is None else resolve_path(data.predict_path)
        if trainer.is_global_zero:
            samples = data.to_predict() if weights else []
            claims = [sink.claim(home, self.folder, samples, weights) for sink in self.sinks]
        claim = next((claim for claim in claims if claim is not None), (home / "predictions", {}))
        self.predictions, self.done = trainer.strategy.broadcast(claim)
        data.leave_out(set(self.done))

    def _begin(self, trainer: L.Trainer, pl_module: Any, loader: Any, predicting: bool) -> None:
        stage = Stage(
            self.predictions if predicting else run_directory(trainer),
            loader.dataset.samples,
            pl_module.decision,
            type(pl_module).__name__,
            predicting,
            self.folder if predicting else None,
            trainer.global_rank,
            trainer.world_size,
            device_name(trainer),
            trainer.loggers,
            trainer.global_step,
            self.done if predicting else {},
        )
        for sink in self.sinks:
            sink.begin(stage)

    def _show(self, judged: Judged) -> None:
        for sink in self.sinks:
            sink.image(judged)

    def on_test_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._begin(trainer, pl_module, trainer.test_dataloaders, predicting=False)

    def on_predict_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._begin(trainer, pl_module, trainer.predict_dataloaders, predicting=True)

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        for judged in judge_images(outputs, batch, pl_module.decision, pl_module.view.region):
            self.writers.submit(self._show, judged)

    def on_predict_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.writers.finish()
        for sink in self.sinks:
            sink.finish(None)

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Nothing of this run is written once another one looks for what it has left."""
        self.writers.give_up()
        for sink in self.sinks:
            sink.give_up()

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.directory = run_directory(trainer)
        self.pixel_metrics, self.image_metrics = PixelEvaluation(), ImageEvaluation()
        self.parts: dict[str, ImageEvaluation] = {}
        self.pixels: Counter[tuple[str, str]] = Counter()  # by group, and one of PIXELS
        source = getattr(getattr(trainer, "datamodule", None), "source", None)
        rules = None if source is None else source.rules()
        whole = self.eval_size is None and pl_module.view.region is None
        self.by_rules = None if rules is None else ByRules(rules, whole)
        self.seen: list[tuple[int, bool, ImageResult]] = []  # with the image's place in the split, and if it has a map

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        images = judge_images(outputs, batch, pl_module.decision, pl_module.view.region)
        self._measure_scores(images)
        for judged in images:
            if judged.anomaly_map is not None and judged.truth is not None:
                self._measure_pixels(judged, judged.anomaly_map, judged.truth)
            self.writers.submit(self._show, judged)

    def _measure_scores(self, images: list[Judged]) -> None:
        groups = [judged.group for judged in images]
        files = [str(judged.sample.image) for judged in images]
        labels = torch.tensor([judged.sample.label for judged in images])
        scores = torch.tensor([judged.score for judged in images], dtype=torch.float32)
        self.image_metrics.update(scores, labels, groups, files)
        for part in images[0].judgement.parts:
            scores = torch.tensor([judged.judgement.parts[part] for judged in images], dtype=torch.float32)
            self.parts.setdefault(part, ImageEvaluation()).update(scores, labels, groups, files)
        for file, judged in zip(files, images, strict=True):
            sample = judged.sample
            known = (file, sample.category, sample.defect, sample.label, judged.score)
            image = ImageResult(*known, judged.threshold, judged.p_value, sample.item)
            self.seen.append((judged.place, judged.judgement.seen is not None, image))

    def _measure_pixels(self, judged: Judged, anomaly_map: NDArray[np.float32], truth: NDArray[np.bool_]) -> None:
        """Count an image's pixels; map and truth, 2 x (H0, W0), are of the region of interest where there is one."""
        roi = judged.roi
        inside = None if roi is None else roi.resized(roi.shape)
        anomaly_map, truth = judged.looked_at(anomaly_map), judged.looked_at(truth)
        limit = math.inf if judged.pixel_threshold is None else judged.pixel_threshold
        above = anomaly_map > limit
        self._count(judged.group, *(values if inside is None else values[inside] for values in (truth, above)))
        if self.eval_size is not None:
            anomaly_map, truth = resized(anomaly_map, truth, self.eval_size)
            inside = None if roi is None else roi.resized(self.eval_size)
        compared = truth if inside is None else truth[inside]
        self.pixels[judged.group, "compared anomalous"] += int(np.count_nonzero(compared))
        self.pixels[judged.group, "compared nominal"] += int(np.count_nonzero(~compared))
        if self.by_rules is not None:
            self.by_rules.update(judged.sample, anomaly_map, judged.pixel_threshold)
        tensors = torch.from_numpy(anomaly_map), torch.from_numpy(truth)
        self.pixel_metrics.update(*tensors, judged.group, str(judged.sample.image), inside)

    def _count(self, group: str, truth: NDArray[np.bool_], found: NDArray[np.bool_]) -> None:
        """Add an image's pixels at the original size, 2 x (H, W) or 2 x (n,)."""
        values = {"nominal": ~truth, "anomalous": truth, "hits": truth & found, "false": ~truth & found}
        for name, of in values.items():
            self.pixels[group, name] += int(np.count_nonzero(of))

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        seen = sorted(gather(self.seen), key=lambda one: one[0])
        images = [image for _, _, image in seen]
        decision = pl_module.decision
        groups = rows_of(sorted({(image.category, image.defect) for image in images}))
        rows = self._rows(groups, images, decision is not None and decision.pixel_threshold() is not None)
        categories = [row for name, row in rows.items() if name.endswith("/")]
        if categories:  # second, after the pooled one
            rows = {POOLED: rows.pop(POOLED), MEAN: mean_row(categories), **rows}
        curves = {**self.image_metrics.curves(), **self.pixel_metrics.curves()}
        self.results = Results(rows, images, curves, maps=any(mapped for _, mapped, _ in seen))
        if decision is not None:
            self.results.threshold, self.results.pixel_threshold = decision.threshold(), decision.pixel_threshold()
            self.results.false_alarm, self.results.decision = decision.false_alarm, summary(decision)
        if trainer.ckpt_path:
            file = Path(trainer.ckpt_path).absolute()
            inside = file.is_relative_to(self.directory.absolute())
            self.results.checkpoint = str(file.relative_to(self.directory.absolute()) if inside else file)
        if self.by_rules is not None:
            self.results.official = self.by_rules.official(groups, rows)
            for name, value in self.results.official.last().items():
                if not math.isnan(value):
                    pl_module.log(f"test/official/{name}", value, rank_zero_only=False, batch_size=1)
        logged = {"": rows[MEAN], "pooled_": rows[POOLED]} if MEAN in rows else {"": rows[POOLED]}
        for prefix, row in logged.items():
            for name, value in row.items():
                if name in (*COLUMNS, SAMPLE_AUROC) and not math.isnan(value):
                    pl_module.log(f"test/{prefix}{name}", value, rank_zero_only=False, batch_size=1)
        self.writers.finish()
        if trainer.is_global_zero:
            self.results.save(self.directory / "metrics.json")
            self.results.save_scores(self.directory / "scores.csv")
        for sink in self.sinks:
            sink.finish(self.results)

    def _rows(self, rows: dict[str, set[str]], images: list[ImageResult], decided: bool) -> dict[str, dict[str, float]]:
        """Every metric of each row, a set of groups; all processes must call it, with the images of all."""
        of_images = self.image_metrics.compute_rows(rows, self.bootstrap)
        of_pixels = self.pixel_metrics.compute_rows(rows)
        pixels: Counter[tuple[str, str]] = Counter()
        for key, count in gather(list(self.pixels.items())):
            pixels[key] += count
        values = {}
        for row, groups in rows.items():
            count = {name: sum(pixels[group, name] for group in groups) for name in PIXELS}
            found = (count["hits"], count["false"]) if decided else (math.nan, math.nan)
            values[row] = {
                **of_images[row],
                **of_pixels[row],
                **verdict_row(image for image in images if f"{image.category}/{image.defect}" in groups),
                **pixel_verdict_row(count["nominal"], count["anomalous"], *found),
                "nominal_pixels": count["compared nominal"],
                "anomalous_pixels": count["compared anomalous"],
            }
        for row, value in sample_aurocs(rows, images).items():
            values[row][SAMPLE_AUROC] = value
        for part in sorted(set(gather(sorted(self.parts)))):
            scores = self.parts.setdefault(part, ImageEvaluation()).compute_rows(rows)
            for row in rows:
                values[row][f"image_auroc_{part}"] = scores[row]["image_auroc"]
        return values

    def on_test_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero and self.results is not None:
            tell("\n" + self.results.table())


def resized(
    anomaly_map: NDArray[np.float32], truth: NDArray[np.bool_], size: Size
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return map and truth, 2 x (H, W), at another size."""
    # INTER_NEAREST would take the pixel at a cell's corner, and so shift the truth against the map.
    small = cv2.resize(truth.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return bilinear(anomaly_map, size), small.astype(bool)


def sample_aurocs(rows: dict[str, set[str]], images: list[ImageResult]) -> dict[str, float]:
    """S-AUROC of each row, a set of groups, over the samples all of whose images are in it: the good views of a part
    with another defect make no good sample. Nothing where no item has several images."""
    samples: dict[tuple[str, str, str], list[ImageResult]] = defaultdict(list)
    for image in images:
        samples[image.category, image.item, "" if image.item else image.path].append(image)
    if len(samples) == len(images):
        return {}
    found = {}
    for row, groups in rows.items():
        whole = [
            (image.score, image.label, sample)
            for sample, views in samples.items()
            if groups.issuperset(f"{image.category}/{image.defect}" for image in views)
            for image in views
        ]
        scores, labels, of = zip(*whole, strict=True) if whole else ((), (), ())
        found[row] = sample_auroc(scores, labels, of)
    return found


def rows_of(groups: list[tuple[str, str]]) -> dict[str, set[str]]:
    """The rows of a report, each with its groups: pooled, each category ("CATEGORY/") if there are several, each defect
    type ("CATEGORY/DEFECT") with the good images of its category."""
    rows = {POOLED: {f"{category}/{defect}" for category, defect in groups}}
    categories: dict[str, set[str]] = defaultdict(set)
    for category, defect in groups:
        categories[category].add(f"{category}/{defect}")
    for category, mine in sorted(categories.items()):
        if len(categories) > 1:
            rows[f"{category}/"] = mine
        rows |= {name: {name, f"{category}/good"} for name in sorted(mine - {f"{category}/good"})}
    return rows
