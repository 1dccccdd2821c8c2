"""Log the speed of a training."""

import time
from statistics import fmean
from typing import Any

import lightning as L
import torch

from lit_ad.batch import Batch
from lit_ad.distributed import gather, reduce_logged_metrics
from lit_ad.machine import peak_memory


class TrainingSpeed(L.Callback):
    """Logs images per second, learning rate, memory and used cores at the end of each epoch."""

    logged = ("train/images_per_second", "train/lr", "system/cpu_cores", "system/peak_memory_gib")  # on every machine

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.images, self.started, self.worked = 0, time.perf_counter(), time.process_time()
        self.ended = self.started

    on_train_start = on_train_epoch_start  # a run that resumes within an epoch does not call on_train_epoch_start

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.images, self.ended = self.images + len(batch), time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not self.images:
            return  # the run resumed at the end of an epoch
        speed = self.images * trainer.world_size / (self.ended - self.started)
        values = {"train/images_per_second": speed}
        for number, optimizer in enumerate(trainer.optimizers):
            values[f"train/lr{number or ''}"] = optimizer.param_groups[0]["lr"]
        values["system/cpu_cores"] = (time.process_time() - self.worked) / (self.ended - self.started)
        if (memory := peak_memory()) is not None:
            values["system/peak_memory_gib"] = memory / 2**30
        if torch.cuda.is_available():
            values["system/peak_gpu_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        reduce_logged_metrics(trainer)
        shares = gather([values])
        for name in values:
            pl_module.log(name, fmean(share[name] for share in shares), batch_size=1)
