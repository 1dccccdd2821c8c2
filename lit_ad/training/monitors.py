"""What callbacks and schedules of the learning rate wait for has to be measured: known before the training."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from lit_ad.counts import format_count
from lit_ad.errors import UserError


class MonitorCheck(L.Callback):
    """Refuse names of values that no one logs, which Lightning notices after an epoch.

    A method lists what it logs in its attribute `logged`; a callback that logs something may have one, too. Where other
    callbacks are of neither Lightning nor lit_ad and have no list, a warning is all that can be said.
    """

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Before features are computed. Raises UserError on a callback's name."""
        if stage == "fit":
            self._check(trainer, pl_module, _monitored_by_callbacks(trainer))

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Once there are schedules of the learning rate. Raises UserError on their names."""
        self._check(trainer, pl_module, _monitored_by_schedules(trainer))
        every = trainer.check_val_every_n_epoch
        for config in trainer.lr_scheduler_configs:
            rare = config.reduce_on_plateau and config.interval == "epoch" and str(config.monitor).startswith("val/")
            if rare and config.strict and every and config.frequency % every:
                raise UserError(
                    f"ReduceLROnPlateau looks at {config.monitor} once in {format_count(config.frequency, 'epoch')}, "
                    f"and trainer.check_val_every_n_epoch is {every}: return a frequency of {every} beside it"
                )

    def _check(self, trainer: L.Trainer, pl_module: Any, monitored: Iterable[tuple[str, str, bool]]) -> None:
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        splits = getattr(getattr(trainer, "datamodule", None), "splits", None)
        undecided = splits is not None and not splits.val
        logged = sorted({name for part in (pl_module, *callbacks) for name in getattr(part, "logged", ())})
        for who, name, strict in monitored:
            if undecided and name.startswith("val/") and name in logged and strict and not who.endswith("Checkpoint"):
                raise UserError(f"{who} monitors {name!r}, and no image is held out to measure it on: leave {who} out")
            if name in logged:
                continue
            unknown = " or ".join(type(callback).__name__ for callback in callbacks if _may_log(callback))
            nothing = f"nothing logs, unless {unknown} does" if unknown else "nothing logs"
            message = f"{who} monitors {name!r}, which {nothing}: {advice(name, logged)}"
            if strict and not unknown:
                raise UserError(message)
            rank_zero_warn(message)


def _monitored_by_callbacks(trainer: L.Trainer) -> Iterator[tuple[str, str, bool]]:
    """Who waits for a value, the value's name, and whether it is an error if it is missing."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        name = getattr(callback, "monitor", None)
        counts = isinstance(callback, ModelCheckpoint) and name in ("epoch", "step")  # which Lightning adds itself
        if isinstance(name, str) and not counts:
            yield type(callback).__name__, name, not isinstance(callback, EarlyStopping) or callback.strict


def _monitored_by_schedules(trainer: L.Trainer) -> Iterator[tuple[str, str, bool]]:
    """The same of schedules of the learning rate."""
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau:
            yield type(config.scheduler).__name__, str(config.monitor), config.strict


def _may_log(callback: Any) -> bool:
    """Whether a callback is of someone else, who has not said what it logs."""
    return type(callback).__module__.split(".")[0] not in ("lit_ad", "lightning") and not hasattr(callback, "logged")


def advice(name: str, logged: list[str]) -> str:
    """What to write instead."""
    if name.startswith("test/"):
        return f"the test comes after the training, and selects no model; there are {', '.join(logged)}"
    near = get_close_matches(name.replace("_", "/", 1), logged, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"{guess}there are {', '.join(logged)}, and a method that logs more says so in its attribute `logged`"
