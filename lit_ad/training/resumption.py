"""A training that goes on from a checkpoint does so with the settings that are given now."""

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
}  # of torch's schedules


class Resumption(L.Callback):
    """Say which arguments of the model differ from the checkpoint's, and have the optimizer use the present ones.

    Lightning restores the optimizer with the options in the checkpoint, and the schedule of its learning rate with the
    length that it had there. Here the options are those that the model gives now, and the schedule is the present one
    at the step that the checkpoint reached. Nothing is done where nothing differs.
    """

    changed: dict[str, tuple[Any, Any]]  # arguments of the model: in the checkpoint, and now

    def __init__(self) -> None:
        self.changed = {}
        self.options: list[list[dict[str, Any]]] = []  # of each group of each optimizer, as the model makes them
        self.schedules: list[dict[str, Any]] = []
        self.step: int | None = None  # that the checkpoint had reached

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Raises UserError if there is no state of the optimizer in the checkpoint."""
        if trainer.state.fn != "fit":
            return
        if "optimizer_states" not in checkpoint:
            raise UserError(
                f"{trainer.ckpt_path} holds weights alone (checkpoint.save_weights_only), and a training goes on with "
                "the state of its optimizer, too: give last.ckpt"
            )
        self.step = checkpoint["global_step"]
        self.changed = find_changed_arguments(checkpoint, pl_module.hparams)
        for name, (then, now) in self.changed.items():
            rank_zero_info(f"Going on with other settings: model.{name}: {now} from here on, {then} in the checkpoint")

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Before the optimizer is restored."""
        if trainer.ckpt_path:
            self.options = [
                [_options_of(group) for group in optimizer.param_groups] for optimizer in trainer.optimizers
            ]
            self.schedules = [copy.deepcopy(config.scheduler.state_dict()) for config in trainer.lr_scheduler_configs]

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """After it was restored."""
        schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
        plateaus = [schedule for schedule in schedules if isinstance(schedule, ReduceLROnPlateau)]
        others = [
            (schedule, fresh)
            for schedule, fresh in zip(schedules, self.schedules, strict=False)
            if not isinstance(schedule, ReduceLROnPlateau)
        ]
        longer = any(fixed(schedule.state_dict()) != fixed(fresh) for schedule, fresh in others)
        if self.options and (self.changed or longer):
            keep = {"lr"} if plateaus and "lr" not in self.changed else set()  # which the plateaus have lowered
            for optimizer, groups in zip(trainer.optimizers, self.options, strict=True):
                for group, options in zip(optimizer.param_groups, groups, strict=True):
                    group.update({name: value for name, value in options.items() if name not in keep})
            for schedule, fresh in others:
                repeat(schedule, fresh)
            if longer:
                rank_zero_info("Going on with the schedule of the learning rate that the present settings give")
        self.options, self.schedules = [], []

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Say so where nothing was left to train: a job that was ended in its test goes on with the test alone."""
        if trainer.global_step == self.step:
            rank_zero_info(
                f"Nothing was left to train: {trainer.ckpt_path} has reached trainer.max_epochs or trainer.max_steps; "
                "ask for more to train on"
            )
        self.step = None


def _options_of(group: dict[str, Any]) -> dict[str, Any]:
    """All of an optimizer's group but the parameters."""
    return copy.deepcopy({name: value for name, value in group.items() if name != "params"})


def fixed(state: dict[str, Any]) -> dict[str, Any]:
    """What a schedule does not change from step to step."""
    return {name: value for name, value in state.items() if name not in _COUNTERS}


def repeat(schedule: Any, fresh: dict[str, Any]) -> None:
    """Take a schedule from its first step, whose state is `fresh`, to the step at which it is."""
    steps = schedule.last_epoch
    schedule.load_state_dict(fresh)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step\\(\\)` before")
        for _ in range(steps):
            schedule.step()
