"""Measure a test: add its images one batch at a time, then compute the results. Each process adds its own images."""

import math
from collections import Counter, defaultdict

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from lit_ad.detector.decision import Decision
from lit_ad.detector.summary import summarize
from lit_ad.distributed import add_up, gather
from lit_ad.evaluation.judged import Judged
from lit_ad.evaluation.official_scores import OfficialScores
from lit_ad.evaluation.results import MEAN, POOLED, SAMPLE_AUROC, ImageResult, Results
from lit_ad.evaluation.rows import group_rows, mean_row, nominal_mask_row, pixel_verdict_row, verdict_row
from lit_ad.image.pixels import Size
from lit_ad.image.resize import resize_bilinear
from lit_ad.metrics import AUPIMO, ImageEvaluation, PixelEvaluation, sample_auroc
from lit_ad.metrics.instances import Instances

PIXELS = (  # counts of an image's pixels. hits: marked anomalous pixels. false: marked nominal pixels.
    *("nominal", "anomalous", "hits", "false"),  # at the original size, that of the pixel threshold
    *("compared nominal", "compared anomalous"),  # at the size that maps are compared at
)


class Measurement:
    """Accumulates scores, maps and verdicts of one test.

    Args:
        eval_size: Height and width at which pixels are compared. None: those of each image.
        bootstrap: Number of resamples for the intervals of image metrics. 0: no intervals.
        official: The scores by the data set's own rules, which get each image with a map. None: it has no such rules.
    """

    def __init__(
        self, eval_size: Size | None = None, bootstrap: int = 0, official: OfficialScores | None = None
    ) -> None:
        self.eval_size, self.bootstrap, self.official = eval_size, bootstrap, official
        self.pixel_metrics, self.image_metrics, self.overlaps = PixelEvaluation(), ImageEvaluation(), AUPIMO()
        self.instances = Instances()
        self.parts: dict[str, ImageEvaluation] = {}
        self.pixels: Counter[tuple[str, str]] = Counter()  # number of pixels by group and name in PIXELS
        self.nominal_shares: list[tuple[str, float]] = []  # for each nominal image: group, and marked share of pixels
        self.f1s: list[tuple[str, float]] = []  # for each anomalous image: group, and F1 at the pixel threshold
        self.seen: list[tuple[int, bool, ImageResult]] = []  # for each image: index in the split, has a map, result

    def add_scores(self, images: list[Judged]) -> None:
        """Add the scores of a batch's images."""
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
            fields = (file, sample.category, sample.defect, sample.label, judged.score)
            image = ImageResult(*fields, judged.threshold, judged.p_value, sample.item)
            self.seen.append((judged.index, judged.judgement.network_map is not None, image))

    def add_pixels(self, judged: Judged) -> None:
        """Add the pixels of an image, or of its region of interest. Without a map or a truth, add nothing."""
        if judged.anomaly_map is None or judged.truth is None:
            return
        roi = judged.roi
        inside = None if roi is None else roi.resize_mask(roi.shape)
        anomaly_map, truth = judged.inside_roi(judged.anomaly_map), judged.inside_roi(judged.truth)
        # (H, W): the pixels that the detector marks as anomalous. `marked` is None without a pixel threshold.
        marked = None if judged.mask is None else judged.inside_roi(judged.mask)
        called = np.zeros(truth.shape, bool) if marked is None else marked  # without a threshold, no pixel is marked
        counts = self._count(judged.group, *(part if inside is None else part[inside] for part in (truth, called)))
        if marked is not None:
            if judged.sample.label == 0:
                compared_pixels = marked.size if inside is None else np.count_nonzero(inside)
                self.nominal_shares.append((judged.group, float(np.count_nonzero(marked) / compared_pixels)))
            if counts["anomalous"]:
                denominator = counts["hits"] + counts["false"] + counts["anomalous"]
                self.f1s.append((judged.group, 2 * counts["hits"] / denominator))
            self.instances.update(judged.group, truth if inside is None else truth & inside, marked)
        if self.eval_size is not None:
            anomaly_map, truth = resize(anomaly_map, truth, self.eval_size)
            inside = None if roi is None else roi.resize_mask(self.eval_size)
        compared = truth if inside is None else truth[inside]
        self.pixels[judged.group, "compared anomalous"] += int(np.count_nonzero(compared))
        self.pixels[judged.group, "compared nominal"] += int(np.count_nonzero(~compared))
        if self.official is not None:
            self.official.update(judged.sample, anomaly_map, marked)
        tensors = torch.from_numpy(anomaly_map), torch.from_numpy(truth)
        for metric in (self.pixel_metrics, self.overlaps):
            metric.update(*tensors, judged.group, str(judged.sample.image), inside)

    def _count(self, group: str, truth: NDArray[np.bool_], called: NDArray[np.bool_]) -> dict[str, int]:
        """Count an image's pixels, add the counts to its group, and return them.

        Both arrays have the shape (H, W) or (n,).
        """
        values = {"nominal": ~truth, "anomalous": truth, "hits": truth & called, "false": ~truth & called}
        counts = {name: int(np.count_nonzero(pixels)) for name, pixels in values.items()}
        for name, count in counts.items():
            self.pixels[group, name] += count
        return counts

    def compute(self, decision: Decision | None) -> Results:
        """Return the results of all processes. All of them must call it. `decision`: the decision of the verdicts."""
        seen = sorted(gather(self.seen), key=lambda entry: entry[0])
        images = [image for _, _, image in seen]
        groups = group_rows(sorted({(image.category, image.defect) for image in images}))
        rows = self._rows(groups, images, decision is not None and decision.pixel_threshold() is not None)
        categories = [row for name, row in rows.items() if name.endswith("/")]
        if categories:  # the row of means is the second row, after the pooled one
            rows = {POOLED: rows.pop(POOLED), MEAN: mean_row(categories), **rows}
        curves = {**self.image_metrics.curves(), **self.pixel_metrics.curves()}
        curves |= {**self.overlaps.curves(), **self.instances.curves()}
        results = Results(rows, images, curves, maps=any(mapped for _, mapped, _ in seen))
        if decision is not None:
            results.threshold, results.pixel_threshold = decision.threshold(), decision.pixel_threshold()
            results.false_alarm, results.decision = decision.false_alarm, summarize(decision)
        if self.official is not None:
            results.official = self.official.compute(groups, rows)
        return results

    def _rows(self, rows: dict[str, set[str]], images: list[ImageResult], decided: bool) -> dict[str, dict[str, float]]:
        """Return every metric of each row. All processes must call it, with the images of all of them.

        Args:
            rows: The groups of each row.
            images: All images.
            decided: Whether there is a pixel threshold.
        """
        of_images = self.image_metrics.compute_rows(rows, self.bootstrap)
        of_pixels, of_overlaps = self.pixel_metrics.compute_rows(rows), self.overlaps.compute_rows(rows)
        of_instances = self.instances.compute_rows(rows)
        pixels, shares, f1s = add_up(self.pixels), sorted(gather(self.nominal_shares)), gather(self.f1s)
        values = {}
        for row, groups in rows.items():
            count = {name: sum(pixels[group, name] for group in groups) for name in PIXELS}
            hits, false = (count["hits"], count["false"]) if decided else (math.nan, math.nan)
            own_f1s = [f1 for group, f1 in f1s if group in groups]
            values[row] = {
                **of_images[row],
                **of_pixels[row],
                **of_overlaps[row],
                **of_instances[row],
                **verdict_row(image for image in images if f"{image.category}/{image.defect}" in groups),
                **pixel_verdict_row(count["nominal"], count["anomalous"], hits, false, own_f1s),
                **nominal_mask_row([share for group, share in shares if group in groups]),
                "nominal_pixels": count["compared nominal"],
                "anomalous_pixels": count["compared anomalous"],
            }
        for row, value in compute_sample_aurocs(rows, images).items():
            values[row][SAMPLE_AUROC] = value
        for part in sorted(set(gather(sorted(self.parts)))):
            scores = self.parts.setdefault(part, ImageEvaluation()).compute_rows(rows)
            for row in rows:
                values[row][f"image_auroc_{part}"] = scores[row]["image_auroc"]
        return values


def resize(
    anomaly_map: NDArray[np.float32], truth: NDArray[np.bool_], size: Size
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Resize a map and its truth to `size`. Both arrays have the shape (H, W)."""
    # INTER_NEAREST_EXACT takes the pixel at a cell's centre. INTER_NEAREST takes that at its corner, a shift.
    small = cv2.resize(truth.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return resize_bilinear(anomaly_map, size), small.astype(bool)


def compute_sample_aurocs(rows: dict[str, set[str]], images: list[ImageResult]) -> dict[str, float]:
    """Return the S-AUROC of each row, over items with several images; {} if every item has one image. Papers call an
    item a sample.

    A row uses an item only if the row has all images of that item. For example, a defective item is not counted as good
    because some of its views look good.

    Args:
        rows: The groups of each row.
        images: All images.
    """
    views_of_items: dict[tuple[str, str, str], list[ImageResult]] = defaultdict(list)
    for image in images:
        views_of_items[image.category, image.item, "" if image.item else image.path].append(image)
    if len(views_of_items) == len(images):
        return {}
    aurocs = {}
    for row, groups in rows.items():
        complete = [
            (image.score, image.label, item)
            for item, views in views_of_items.items()
            if groups.issuperset(f"{image.category}/{image.defect}" for image in views)
            for image in views
        ]
        scores, labels, items = zip(*complete, strict=True) if complete else ((), (), ())
        aurocs[row] = sample_auroc(scores, labels, items)
    return aurocs
