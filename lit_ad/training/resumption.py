"""Resume a training from a checkpoint with the present settings of the optimizer and its schedule."""

import copy
import warnings
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lit_ad.checkpoint import find_changed_arguments
from lit_ad.errors import UserError

_COUNTERS = {
    "last_epoch",
    "_step_count",
    "_last_lr",
    "_get_lr_called_within_step",
    "_is_initial",
}  # state of torch's schedules that changes from step to step


class Resumption(L.Callback):
    """Prints which arguments of the model differ from the checkpoint's, and makes the optimizer use the present ones.

    Lightning restores the optimizer's options and the length of its schedule from the checkpoint. This callback sets
    the options that the model gives now, and the present schedule at the step that the checkpoint reached. If nothing
    differs, it changes nothing.
    """

    changed: dict[str, tuple[Any, Any]]  # arguments of the model: in the checkpoint, and now

    def __init__(self) -> None:
        self.changed = {}
        self.options: list[list[dict[str, Any]]] = []  # present options of each parameter group of each optimizer
        self.schedules: list[dict[str, Any]] = []  # present schedules at their first step
        self.step: int | None = None  # step that the checkpoint reached

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Print the arguments that differ. Raises UserError if the checkpoint has no state of the optimizer."""
        if trainer.state.fn != "fit":
            return
        if "optimizer_states" not in checkpoint:
            raise UserError(
                f"{trainer.ckpt_path} holds weights only (checkpoint.save_weights_only), but a training needs the "
                "state of its optimizer to go on: give last.ckpt"
            )
        self.step = checkpoint["global_step"]
        self.changed = find_changed_arguments(checkpoint, pl_module.hparams)
        for name, (then, now) in self.changed.items():
            rank_zero_info(f"Going on with other settings: model.{name}: {now} from here on, {then} in the checkpoint")

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Keep the present options and schedules: Lightning restores those of the checkpoint after this hook."""
        if trainer.ckpt_path:
            self.options = [
                [_copy_options(group) for group in optimizer.param_groups] for optimizer in trainer.optimizers
            ]
            self.schedules = [copy.deepcopy(config.scheduler.state_dict()) for config in trainer.lr_scheduler_configs]

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Replace the restored options and schedules by the present ones if any differ."""
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        plateaus = [schedule for schedule in schedules if isinstance(schedule, ReduceLROnPlateau)]
        others = [
            (schedule, fresh)
            for schedule, fresh in zip(schedules, self.schedules, strict=False)
            if not isinstance(schedule, ReduceLROnPlateau)
        ]
        is_other_schedule = any(
            _select_settings(schedule.state_dict()) != _select_settings(fresh) for schedule, fresh in others
        )
        if self.options and (self.changed or is_other_schedule):
            keep = {"lr"} if plateaus and "lr" not in self.changed else set()  # plateaus have lowered the rate
            for optimizer, groups in zip(trainer.optimizers, self.options, strict=True):
                for group, options in zip(optimizer.param_groups, groups, strict=True):
                    group.update({name: value for name, value in options.items() if name not in keep})
            for schedule, fresh in others:
                _advance(schedule, fresh)
            if is_other_schedule:
                rank_zero_info("Going on with the schedule of the learning rate of the present settings")
        self.options, self.schedules = [], []

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """If nothing was left to train, print so. A job that was stopped in its test resumes with the test."""
        if trainer.global_step == self.step:
            rank_zero_info(
                f"Nothing was left to train: {trainer.ckpt_path} has reached trainer.max_epochs or trainer.max_steps; "
                "raise them to train on"
            )
        self.step = None


def _copy_options(group: dict[str, Any]) -> dict[str, Any]:
    """Return the options of an optimizer's parameter group, without the parameters."""
    return copy.deepcopy({name: value for name, value in group.items() if name != "params"})


def _select_settings(state: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a schedule's state that does not change from step to step."""
    return {name: value for name, value in state.items() if name not in _COUNTERS}


def _advance(schedule: Any, fresh: dict[str, Any]) -> None:
    """Set the schedule to `fresh`, the state of the present schedule at its first step. Then advance it to the step
    that the checkpoint reached."""
    steps = schedule.last_epoch
    schedule.load_state_dict(fresh)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step\\(\\)` before")
        for _ in range(steps):
            schedule.step()
