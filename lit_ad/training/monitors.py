"""Check before a training that something logs each value that a callback or a learning rate schedule monitors."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from lit_ad.counts import format_count
from lit_ad.errors import UserError


class MonitorCheck(L.Callback):
    """Refuses to monitor a value that nothing logs. Lightning finds this only after an epoch.

    A method lists the values that it logs in its attribute `logged`; a callback may have such a list, too. If a
    callback from outside Lightning and lit_ad has none, it may log the value, so that there is a warning instead of
    an error.
    """

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Check the callbacks, before features are computed. Raises UserError if one monitors an unknown value."""
        if stage == "fit":
            self._check(trainer, pl_module, _list_monitored_by_callbacks(trainer))

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Check the schedules, which exist now. Raises UserError if one monitors an unknown or too rare value."""
        self._check(trainer, pl_module, _list_monitored_by_schedules(trainer))
        every = trainer.check_val_every_n_epoch
        for config in trainer.lr_scheduler_configs:
            rare = config.reduce_on_plateau and config.interval == "epoch" and str(config.monitor).startswith("val/")
            if rare and config.strict and every and config.frequency % every:
                raise UserError(
                    f"ReduceLROnPlateau reads {config.monitor} once in {format_count(config.frequency, 'epoch')}, but "
                    f"trainer.check_val_every_n_epoch is {every}: let configure_optimizers return the frequency {every}"
                )

    def _check(self, trainer: L.Trainer, pl_module: Any, monitored: Iterable[tuple[str, str, bool]]) -> None:
        """Raise UserError if nothing logs a monitored value. `monitored`: for each value, who monitors it, its
        name, and whether it is an error if nothing logs it."""
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        splits = getattr(getattr(trainer, "datamodule", None), "splits", None)
        undecided = splits is not None and not splits.val
        logged = sorted({name for part in (pl_module, *callbacks) for name in getattr(part, "logged", ())})
        for who, name, strict in monitored:
            if undecided and name.startswith("val/") and name in logged and strict and not who.endswith("Checkpoint"):
                raise UserError(f"{who} monitors {name!r}, but no image is held out to measure it: remove {who}")
            if name in logged:
                continue
            unknown = " or ".join(type(callback).__name__ for callback in callbacks if _may_log(callback))
            nothing = f"nothing logs, unless {unknown} does" if unknown else "nothing logs"
            message = f"{who} monitors {name!r}, which {nothing}: {_advise(name, logged)}"
            if strict and not unknown:
                raise UserError(message)
            rank_zero_warn(message)


def _list_monitored_by_callbacks(trainer: L.Trainer) -> Iterator[tuple[str, str, bool]]:
    """Yield each callback that monitors a value, the value's name, and whether it is an error if nothing logs it."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        name = getattr(callback, "monitor", None)
        counts = isinstance(callback, ModelCheckpoint) and name in ("epoch", "step")  # Lightning adds these itself
        if isinstance(name, str) and not counts:
            yield type(callback).__name__, name, not isinstance(callback, EarlyStopping) or callback.strict


def _list_monitored_by_schedules(trainer: L.Trainer) -> Iterator[tuple[str, str, bool]]:
    """Yield the same for each schedule of the learning rate that monitors a value."""
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau:
            yield type(config.scheduler).__name__, str(config.monitor), config.strict


def _may_log(callback: Any) -> bool:
    """Return whether a callback is from outside Lightning and lit_ad, and does not list what it logs."""
    return type(callback).__module__.split(".")[0] not in ("lit_ad", "lightning") and not hasattr(callback, "logged")


def _advise(name: str, logged: list[str]) -> str:
    """Return which names to monitor instead."""
    if name.startswith("test/"):
        return f"the test comes after the training, and selects no model; take one of {', '.join(logged)}"
    near = get_close_matches(name.replace("_", "/", 1), logged, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"{guess}take one of {', '.join(logged)}; a method that logs more lists it in its attribute `logged`"
