"""The callbacks that every training of the command line has, in addition to those with keys of their own."""

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import Namespace

from lit_ad.evaluation.report.stopwatch import TrainingRecord
from lit_ad.lightning_cli.folds import format_restart_options
from lit_ad.training import Resumption
from lit_ad.training.checkpoints import KeepProgress
from lit_ad.training.final_weights import FinalWeights
from lit_ad.training.interruption import Interruption
from lit_ad.training.monitors import MonitorCheck
from lit_ad.training.speed import TrainingSpeed
from lit_ad.training.watch import Watch


def add_callbacks(trainer: L.Trainer, config: Namespace) -> tuple[Interruption, Watch, KeepProgress]:
    """Add the callbacks of a run to a trainer, and return those that the command uses later.

    Args:
        trainer: The trainer, which already has the callbacks with keys of their own.
        config: The command's configuration, with checkpoint.dirpath set.
    """
    checkpoint = config.checkpoint
    last = Path(checkpoint.dirpath) / "last.ckpt"
    keep = KeepProgress(
        last if checkpoint.save_last else None,
        checkpoint.every_n_train_steps,
        checkpoint.train_time_interval,
        checkpoint.save_on_exception,
    )
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint):
            callback.save_last = False  # its last.ckpt would be the latest best; KeepProgress writes the true last
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if checkpoint.save_last:
        callbacks.append(FinalWeights(last))
    interruption = Interruption(last, format_restart_options(config), part=config.data.split.fold is not None)
    watch = Watch(config.patience)
    callbacks += [MonitorCheck(), Resumption(), TrainingSpeed(), TrainingRecord(), keep, interruption, watch]
    return interruption, watch, keep
