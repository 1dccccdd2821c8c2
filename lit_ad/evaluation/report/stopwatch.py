"""Measure the time and memory of a training or a test, and write them to RUN/record.json."""

import time
from typing import Any

import lightning as L
import torch

from lit_ad.batch import Batch
from lit_ad.distributed import gather
from lit_ad.evaluation.report.record import Record, Took, environment
from lit_ad.files import run_directory
from lit_ad.machine import peak_memory


class Stopwatch:
    """Measures time and memory from the moment it is made.

    Args:
        processes: Number of processes that work together.
        device: Name of this process's accelerator; "" without one.
    """

    def __init__(self, processes: int, device: str) -> None:
        self.processes, self.device = processes, device
        self.began = time.perf_counter()

    def read(self, images: int, resumed: bool = False) -> Took:
        """Return time and memory so far, of all processes. All of them must call it.

        Args:
            images: Number of images that this process handled.
            resumed: Whether the training was resumed from a checkpoint.
        """
        gpu_memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
        counts, memory, on_gpu = zip(*gather([(images, peak_memory(), gpu_memory)]), strict=True)
        return Took(
            seconds=time.perf_counter() - self.began,
            images=sum(counts),
            memory=max((each for each in memory if each is not None), default=None),
            gpu_memory=max((each for each in on_gpu if each is not None), default=None),
            environment=environment(self.processes, sorted(set(gather([self.device] if self.device else [])))),
            resumed=resumed,
        )


class TrainingRecord(L.Callback):
    """Writes time and memory of a training to RUN/record.json."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.watch, self.images = Stopwatch(trainer.world_size, device_name(trainer)), 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.images += len(batch)

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        home, took = run_directory(trainer), self.watch.read(self.images, resumed=bool(trainer.ckpt_path))
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            Record(type(pl_module).__name__, training=took).save(home)


def device_name(trainer: L.Trainer) -> str:
    """Return the name of this process's accelerator; "" without one."""
    return torch.cuda.get_device_name() if trainer.strategy.root_device.type == "cuda" else ""
