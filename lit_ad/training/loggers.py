"""Dashboards by name, and loggers whose troubles never end a training."""

import functools
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from lit_ad.files import atomic_write
from lit_ad.names import printable

Dashboards = list[Literal["wandb", "tensorboard"]]
_CALLS = ("log_metrics", "log_hyperparams", "log_graph", "log_image", "log_table", "save", "finalize")


def by_name(name: str, run: Path) -> Namespace:
    """A logger's configuration. What a run directory logs, also after an interruption, is one wandb run."""
    arguments: dict[str, Any] = {"save_dir": str(run)}
    if name == "tensorboard":
        arguments |= {"name": "tensorboard", "version": "", "default_hp_metric": False}
        return Namespace(class_path="lightning.pytorch.loggers.TensorBoardLogger", init_args=Namespace(arguments))
    arguments |= {"project": "lit_ad", "name": printable("/".join(run.parts[-2:])), "id": wandb_id(run)}
    return Namespace(class_path="lightning.pytorch.loggers.WandbLogger", init_args=Namespace(arguments))


@rank_zero_only
def wandb_id(run: Path) -> str:
    """The id of this directory's wandb run, made when it is first asked for."""
    record = run / "wandb_id"
    if not record.is_file():
        with atomic_write(record) as temporary:
            temporary.write_text(secrets.token_hex(4), encoding="utf-8")
    return record.read_text(encoding="utf-8").strip()


def forgiving(loggers: list[Logger]) -> list[Logger]:
    """The same loggers, opened, and those left out that cannot be. From now on a failing call costs a warning, once."""
    return [_guarded(logger) for logger in loggers if opened(logger)]


def opened(logger: Logger) -> bool:
    """Whether a logger takes data. wandb without a key or a network keeps the run on this disk instead."""
    if isinstance(logger, WandbLogger) and logger.save_dir:
        # Pictures in tables wait there to be sent, which offline is until `wandb sync`; else in the home directory.
        os.environ.setdefault("WANDB_DATA_DIR", str(Path(logger.save_dir).absolute() / "wandb"))
    if isinstance(logger, WandbLogger):
        # Lightning 2.6 always gives it, wandb 0.31 warns that it has no effect, and no argument leaves it out.
        logger._wandb_init.pop("anonymous", None)
    try:
        _ = getattr(logger, "experiment", None)
        return True
    except Exception as error:  # whatever a dashboard's client raises
        if not isinstance(logger, WandbLogger):
            rank_zero_warn(f"{type(logger).__name__} is left out ({type(error).__name__}: {error})")
            return False
        first = f"{error}".partition("\n")[0]
    try:
        import wandb

        wandb.teardown()  # which still tries to reach this run
        logger._wandb_init["mode"] = "offline"
        _ = logger.experiment
        rank_zero_warn(f"wandb works offline ({first}). Later: `wandb sync {logger.save_dir}/wandb/offline-run-*`")
        return True
    except Exception as error:
        rank_zero_warn(f"wandb is left out ({first}; offline: {error})")
        return False


def _guarded(logger: Logger) -> Logger:
    """A logger that falls silent at its first error."""
    for name in _CALLS:
        if hasattr(logger, name):
            setattr(logger, name, guard(logger, getattr(logger, name)))
    return logger


def guard(logger: Logger, call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def careful(*args: Any, **kwargs: Any) -> Any:
        if vars(logger).get("silent"):
            return None
        try:
            return call(*args, **kwargs)
        except Exception as error:
            vars(logger)["silent"] = True
            rank_zero_warn(
                f"{type(logger).__name__} failed and gets no more; the run goes on ({type(error).__name__}: {error})"
            )

    return careful
