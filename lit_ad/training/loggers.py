"""Make loggers for dashboards by name, and keep their errors from ending a training."""

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


def configure_logger(name: str, run: Path) -> Namespace:
    """Return the configuration of the logger "tensorboard" or "wandb". A run directory has one wandb run, which
    continues after an interruption."""
    arguments: dict[str, Any] = {"save_dir": str(run)}
    if name == "tensorboard":
        arguments |= {"name": "tensorboard", "version": "", "default_hp_metric": False}
        return Namespace(class_path="lightning.pytorch.loggers.TensorBoardLogger", init_args=Namespace(arguments))
    arguments |= {"project": "lit_ad", "name": printable("/".join(run.parts[-2:])), "id": wandb_id(run)}
    return Namespace(class_path="lightning.pytorch.loggers.WandbLogger", init_args=Namespace(arguments))


@rank_zero_only
def wandb_id(run: Path) -> str:
    """Return the id of a run directory's wandb run. The first call makes it and writes it to RUN/wandb_id."""
    record = run / "wandb_id"
    if not record.is_file():
        with atomic_write(record) as temporary:
            temporary.write_text(secrets.token_hex(4), encoding="utf-8")
    return record.read_text(encoding="utf-8").strip()


def open_loggers(loggers: list[Logger]) -> list[Logger]:
    """Open loggers, and return those that work. A later error of a logger becomes a warning, and silences the
    logger."""
    return [_silence_errors(logger) for logger in loggers if open_logger(logger)]


def open_logger(logger: Logger) -> bool:
    """Open a logger, and return whether it works. Without a key, or offline, wandb writes its run to this disk."""
    if isinstance(logger, WandbLogger) and logger.save_dir:
        # wandb keeps pictures here until it sends them, offline until `wandb sync`. Its default is the home directory.
        os.environ.setdefault("WANDB_DATA_DIR", str(Path(logger.save_dir).absolute() / "wandb"))
    if isinstance(logger, WandbLogger):
        # Lightning 2.6 always passes "anonymous", and wandb 0.31 warns that it has no effect. No argument removes it.
        logger._wandb_init.pop("anonymous", None)
    try:
        _ = getattr(logger, "experiment", None)
        return True
    except Exception as error:  # a dashboard's client may raise anything
        if not isinstance(logger, WandbLogger):
            rank_zero_warn(f"{type(logger).__name__} is left out ({type(error).__name__}: {error})")
            return False
        first = f"{error}".partition("\n")[0]
    try:
        import wandb

        wandb.teardown()  # wandb's process still tries to reach the server for this run
        logger._wandb_init["mode"] = "offline"
        _ = logger.experiment
        rank_zero_warn(f"wandb works offline ({first}). Later: `wandb sync {logger.save_dir}/wandb/offline-run-*`")
        return True
    except Exception as error:
        rank_zero_warn(f"wandb is left out ({first}; offline: {error})")
        return False


def _silence_errors(logger: Logger) -> Logger:
    """Wrap a logger's calls, so that its first error becomes a warning and later calls do nothing."""
    for name in _CALLS:
        if hasattr(logger, name):
            setattr(logger, name, catch_errors(logger, getattr(logger, name)))
    return logger


def catch_errors(logger: Logger, call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a call of a logger that turns the logger's first error into a warning; later calls do nothing."""

    @functools.wraps(call)
    def call_safely(*args: Any, **kwargs: Any) -> Any:
        if vars(logger).get("silent"):
            return None
        try:
            return call(*args, **kwargs)
        except Exception as error:
            vars(logger)["silent"] = True
            rank_zero_warn(
                f"{type(logger).__name__} failed and gets no more; the run goes on ({type(error).__name__}: {error})"
            )

    return call_safely
