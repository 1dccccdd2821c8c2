"""Save the latest state of a training, validate its last step, and stop it if its loss is not finite."""

import math
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L

from lit_ad.distributed import reduce_logged_metrics
from lit_ad.errors import UserError


class KeepProgress(L.Callback):
    """Saves last.ckpt after every epoch, and ends a training whose loss is NaN or infinite.

    It also validates the last step of a training, whatever check_val_every_n_epoch and val_check_interval are.

    Args:
        checkpoint: File of the latest state, last.ckpt: weights, optimizer and schedules. None: it is not saved.
        every_n_train_steps: Save the file also every so many steps.
        train_time_interval: Save the file also after each such time of training.
        on_exception: Save the file also if the training ends in an error, and has only one process.
    """

    def __init__(
        self,
        checkpoint: Path | None,
        every_n_train_steps: int | None = None,
        train_time_interval: timedelta | None = None,
        on_exception: bool = False,
    ) -> None:
        self.checkpoint = checkpoint
        self.steps, self.interval, self.saves_errors = every_n_train_steps, train_time_interval, on_exception
        self.saved_step, self.saved_time = 0, time.monotonic()
        self.asked_for: int | None = None  # the user's trainer.check_val_every_n_epoch, while 1 replaces it

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.asked_for = trainer.check_val_every_n_epoch
        self.every: int = getattr(trainer, "log_every_n_steps", None) or 50
        self.saved_step, self.saved_time = trainer.global_step, time.monotonic()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs:
            self._validate_this_epoch(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        # The trainer has no val_check_interval if that is a time.
        within = trainer.check_val_every_n_epoch is None or getattr(trainer, "val_check_interval", None) != 1.0
        ends = within and trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
        if ends or (trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps):
            self._validate_this_epoch(trainer)
            trainer.should_stop = True  # so that Lightning validates also within an epoch
        elif trainer.should_stop:  # trainer.max_time is over
            self._validate_this_epoch(trainer)
        # On a GPU, reading the loss makes the program wait, so read it only every `every` steps. The loss is the mean
        # over all processes, so all of them stop at the same step.
        if trainer.strategy.root_device.type == "cpu" or trainer.global_step % self.every == 0:
            loss = trainer.callback_metrics.get("train/loss_step")
            if loss is not None and not math.isfinite(float(loss)):
                half = ", or give trainer.precision 32-true" if "16" in str(trainer.precision) else ""
                raise UserError(
                    f"the loss of step {trainer.global_step} is {loss}: the training has diverged. Lower model.lr{half}"
                )

        # A run that resumed from the last batch would skip the epoch's validation; on_train_epoch_end saves instead.
        if not (trainer.is_last_batch or trainer.should_stop) and self._is_due(trainer):
            self._save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Save again if the checkpoint already has these weights: it was saved before they had a decision."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self.saved_step == trainer.global_step > 0:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.checkpoint is not None:
            reduce_logged_metrics(trainer)  # `_save` is a collective
        self._save(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        if self.saves_errors and trainer.state.fn == "fit" and not trainer.sanity_checking and trainer.world_size == 1:
            self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        trainer.check_val_every_n_epoch = self.asked_for

    def _is_due(self, trainer: L.Trainer) -> bool:
        """Return whether to save within an epoch. All processes must call it: the first one's time decides."""
        if trainer.global_step == self.saved_step:  # gradients are being accumulated
            return False
        if self.steps is not None and trainer.global_step % self.steps == 0:
            return True
        if self.interval is None:
            return False
        return bool(trainer.strategy.broadcast(time.monotonic() - self.saved_time >= self.interval.total_seconds()))

    def _save(self, trainer: L.Trainer) -> None:
        if self.checkpoint is not None:
            trainer.save_checkpoint(self.checkpoint, weights_only=False)
            self.saved_step, self.saved_time = trainer.global_step, time.monotonic()

    def _validate_this_epoch(self, trainer: L.Trainer) -> None:
        if trainer.check_val_every_n_epoch is not None:  # None: validations are counted in batches
            trainer.check_val_every_n_epoch = 1
