"""Progress bar of a training: one line, with the time that is left for all epochs."""

import math
import time
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities import rank_zero_info
from rich.progress import BarColumn, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

SHOWN = {"train/loss_step": "loss", "val/loss": "val/loss"}  # logged value -> its name in the line


class Progress(RichProgressBar):
    """Shows epoch, batches, the latest loss, the held-out images' loss, and the time left of the whole training.

    Lightning's own bar shows every logged value, each on its own line if the console is narrow.
    """

    def __init__(self) -> None:
        super().__init__()
        self.began, self.first = 0.0, 0  # start in seconds, and the number of batches that an earlier run has done

    def configure_columns(self, trainer: L.Trainer) -> list[ProgressColumn]:
        """Return the parts of the line, which fits a console of 80 columns."""
        describe, _, batches, *_ = super().configure_columns(trainer)
        return [describe, BarColumn(bar_width=16), batches, _TimeLeft()]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the method and its number of parameters. Of the trainings of decision.folds, only the first prints."""
        if is_later_fold(trainer):
            return
        trained, frozen = count_parameters(pl_module)
        rank_zero_info(
            f"{type(pl_module).__name__}: {format_millions(trained)} parameters are trained, "
            f"{format_millions(frozen)} are frozen"
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.began, self.first = time.monotonic(), _count_batches_done(trainer)

    @property
    def total_train_batches(self) -> int | float:
        """The number of batches of this epoch. Lightning's takes steps for batches where trainer.max_steps ends the
        training, so that trainer.accumulate_grad_batches made it too low."""
        trainer = self.trainer
        if trainer.max_steps == -1:
            return trainer.num_training_batches
        left = (trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches
        return min(trainer.num_training_batches, left)

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        metrics = super().get_metrics(trainer, pl_module)
        shown: dict[str, Any] = {name: metrics[key] for key, name in SHOWN.items() if key in metrics}
        done, total = _count_batches_done(trainer), count_total_batches(trainer)
        if done > self.first and done < total < math.inf:
            seconds = (time.monotonic() - self.began) / (done - self.first) * (total - done)
            shown["left"] = str(timedelta(seconds=round(seconds)))
        return shown

    def _get_train_description(self, current_epoch: int) -> str:
        epochs = self.trainer.max_epochs
        fold = getattr(getattr(getattr(self.trainer, "datamodule", None), "split", None), "fold", None)
        if fold is not None:
            return f"Fold {fold + 1}, epoch {current_epoch + 1}".ljust(len(self.validation_description))
        total = f" of {epochs}" if epochs not in (None, -1) else ""
        return f"Epoch {current_epoch + 1}{total}".ljust(len(self.validation_description))


class _TimeLeft(TimeRemainingColumn):
    """Shows the time left of a validation, a test or a prediction. In a training, `left` shows the time of all
    epochs."""

    def render(self, task: Task) -> Text:
        return Text() if task.description.startswith(("Epoch", "Fold")) else super().render(task)


def is_later_fold(trainer: L.Trainer) -> bool:
    """Return whether this is a training of decision.folds after the first one, which has printed the same lines."""
    return bool(getattr(getattr(getattr(trainer, "datamodule", None), "split", None), "repeats", False))


def count_parameters(model: L.LightningModule) -> tuple[int, int]:
    """Return the number of trained and of frozen parameters of a model."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, trained in sizes if not trained)


def format_millions(count: int) -> str:
    """Format a number of parameters: 700.1 K, 11.2 M."""
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.1f} K"


def _count_batches_done(trainer: L.Trainer) -> int:
    """Return the number of training batches so far, including those before a resumption."""
    return int(trainer.fit_loop.epoch_loop.total_batch_idx) + 1


def count_total_batches(trainer: L.Trainer) -> float:
    """Return the number of batches of the whole training; infinity if it has no end."""
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs * float(trainer.num_training_batches)
    steps = math.inf if trainer.max_steps == -1 else trainer.max_steps * trainer.accumulate_grad_batches
    return min(epochs, steps)
