"""A test's page, and what it is made of beside the results: thumbnails, and the record of what the run took."""

import time
from pathlib import Path
from threading import Lock
from typing import Any
from zipfile import ZipFile, ZipInfo

import cv2
import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn

from lit_ad.batch import Batch
from lit_ad.detector.decision import Decision
from lit_ad.detector.scoring import Judgement
from lit_ad.distributed import gather
from lit_ad.evaluation.callback import Evaluation
from lit_ad.evaluation.report.page import PAGE, write_page
from lit_ad.evaluation.report.record import Record, Took, environment
from lit_ad.evaluation.report.thumbnails import BYTES, THUMBNAILS, joined, jpeg, outline_png, thumbnail_size
from lit_ad.evaluation.sinks.heatmaps import FOUND, TRUTH, Mark, colours, content, contours, heat_panel, outlined
from lit_ad.files import Writers, run_directory
from lit_ad.image.pixels import Size
from lit_ad.machine import peak_memory


class Report(L.Callback):
    """Write RUN/report.html after a test, and for `lit-ad report` what it is made of: RUN/thumbnails.zip and
    RUN/record.json.

    It shows what Evaluation wrote, so it comes after it in the list of callbacks.
    """

    part: ZipFile | None = None  # this process's thumbnails

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.began, self.images = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.images += len(batch)

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        home, took = run_directory(trainer), self._took(trainer, resumed=bool(trainer.ckpt_path))
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            Record(type(pl_module).__name__, training=took).save(home)

    def _took(self, trainer: L.Trainer, resumed: bool = False) -> Took:
        """Since `self.began`; every process must call it."""
        gpu = torch.cuda.is_available()
        mine = (self.images, peak_memory(), torch.cuda.max_memory_allocated() if gpu else None)
        device = torch.cuda.get_device_name() if trainer.strategy.root_device.type == "cuda" else ""
        images, memory, gpu_memory = zip(*gather([mine]), strict=True)
        devices = sorted(set(gather([device] if device else [])))
        return Took(
            seconds=time.perf_counter() - self.began,
            images=sum(images),
            memory=max((each for each in memory if each is not None), default=None),
            gpu_memory=max((each for each in gpu_memory if each is not None), default=None),
            environment=environment(trainer.world_size, devices),
            resumed=resumed,
        )

    def on_test_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.directory, self.writers, self.lock = run_directory(trainer), Writers(), Lock()
        self.began, self.images = time.perf_counter(), 0
        self.paths: dict[int, str] = {}  # of this process's images, by their place in the split
        self.directory.mkdir(parents=True, exist_ok=True)
        self.part = ZipFile(self.directory / f".{THUMBNAILS}.{trainer.global_rank}.part", "w")

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.images += len(batch)
        for i, (sample, judgement) in enumerate(zip(batch.samples, outputs, strict=True)):
            self.paths[int(batch.index[i])] = str(sample.image)
            self.writers.submit(self._draw, pl_module.decision, judgement, batch, i)

    def _draw(self, decision: Decision | None, judgement: Judgement, batch: Batch, i: int) -> None:
        assert self.part is not None
        for kind, data in thumbnails(decision, judgement, batch, i).items():
            with self.lock:  # an archive takes one entry at a time
                self.part.writestr(ZipInfo(f"{int(batch.index[i])}.{kind}"), data)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        assert self.part is not None
        self.writers.finish()
        self.part.close()
        self.took = self._took(trainer)
        self.all_paths = dict(gather(list(self.paths.items())))
        self.parts = [Path(part) for part in gather([str(self.part.filename)])]

    def on_test_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        parts = [part for part in self.parts if part.is_file()]  # another machine's may lie elsewhere
        left_out = joined(parts, self.all_paths, self.directory / THUMBNAILS)
        for part in parts:
            part.unlink()
        if left_out:
            rank_zero_warn(
                f"{len(left_out)} images have no picture in {PAGE}: other machines, which do not share "
                f"{self.directory}, have them"
            )
        earlier = Record.load(self.directory)
        decision = pl_module.decision
        held_out = {} if decision is None else {name: held.tolist() for name, held in decision.scores.items()}
        training = None if earlier is None else earlier.training
        Record(type(pl_module).__name__, training, self.took, held_out).save(self.directory)
        if any(isinstance(one, Evaluation) for one in trainer.callbacks):  # type: ignore[attr-defined]
            write_page([self.directory], self.directory / PAGE)

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        if self.part is not None and self.part.fp is not None:  # a test that did not end
            self.writers.give_up()
            self.part.close()
            Path(str(self.part.filename)).unlink(missing_ok=True)


def thumbnails(decision: Decision | None, judgement: Judgement, batch: Batch, i: int) -> dict[str, bytes]:
    """The pictures of image i: "image"; with a mask, "truth", its outline; with a map, "heat" in the colours of
    Heatmaps, what lies above the threshold outlined. All have the image's proportions, and lie over one another."""
    sample, size = batch.samples[i], thumbnail_size(batch.sizes[i])
    found = {"image": jpeg(shrunk(content(batch, i), size), BYTES["image"])}
    mask = None if batch.masks is None else batch.masks[i]
    if mask is not None and bool(mask.any()):
        outline = np.zeros(size, np.uint8)
        for lines, _ in contours([Mark("truth", mask.numpy(), TRUTH)], size):
            cv2.drawContours(outline, lines, -1, 1, 1)
        found["truth"] = outline_png(outline > 0, TRUTH)
    if judgement.seen is None:
        return found
    top, left, bottom, right = judgement.box
    heat = heat_panel(judgement.original_map((bottom - top, right - left)), size)
    span = None if decision is None else decision.colour_range(sample.category)
    threshold = None if decision is None else decision.pixel_threshold(sample.category)
    low, high = span or (float(heat.min()), float(heat.max()))
    panel = colours(((heat - low) / max(high - low, 1e-30)).clip(0, 1))
    if threshold is not None:
        panel = outlined(panel, contours([Mark("above the threshold", heat > threshold, FOUND)], size))
    found["heat"] = jpeg(panel, BYTES["heat"])
    return found


def shrunk(image: np.ndarray, size: Size) -> np.ndarray:
    """(h, w, 3) at another size."""
    smaller = size[0] < image.shape[0]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
