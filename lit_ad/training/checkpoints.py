"""What keeps a training from losing finished work, or from going on for nothing."""

import math
from pathlib import Path
from typing import Any

import lightning as L

from lit_ad.distributed import reduce_logged_metrics
from lit_ad.errors import UserError


class KeepProgress(L.Callback):
    """The epoch that ends the training is validated, whatever check_val_every_n_epoch says, and last.ckpt is that of
    the latest epoch, also between validations. A loss that is no number ends the training at once.

    Args:
        checkpoint: Where the latest epoch is saved. None: nowhere.
    """

    def __init__(self, checkpoint: Path | None) -> None:
        self.checkpoint = checkpoint
        self.asked_for: int | None = None  # trainer.check_val_every_n_epoch, while ours stands in its place

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.asked_for = trainer.check_val_every_n_epoch
        self.every: int = getattr(trainer, "log_every_n_steps", None) or 50

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs:
            self._validate_this(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
            self._validate_this(trainer)
            trainer.should_stop = True  # so that Lightning validates within an epoch too
        elif trainer.should_stop:  # trainer.max_time is over
            self._validate_this(trainer)
        # Reading a loss waits for the GPU; it is the mean over processes, so that all of them stop.
        if trainer.strategy.root_device.type == "cpu" or trainer.global_step % self.every == 0:
            loss = trainer.callback_metrics.get("train/loss_step")
            if loss is not None and not math.isfinite(float(loss)):
                half = ", or give trainer.precision 32-true" if "16" in str(trainer.precision) else ""
                raise UserError(
                    f"the loss of step {trainer.global_step} is {loss}: the training has diverged. Lower model.lr{half}"
                )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.checkpoint is not None:
            reduce_logged_metrics(trainer)  # saving is a collective
            trainer.save_checkpoint(self.checkpoint, weights_only=False)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        trainer.check_val_every_n_epoch = self.asked_for

    def _validate_this(self, trainer: L.Trainer) -> None:
        if trainer.check_val_every_n_epoch is not None:  # None: by batches
            trainer.check_val_every_n_epoch = 1
