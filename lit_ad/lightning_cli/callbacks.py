"""The callbacks that every training of the command line has, beside those that have keys."""

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import Namespace

from lit_ad.evaluation.report.stopwatch import TrainingRecord
from lit_ad.lightning_cli.folds import way_to_restart
from lit_ad.training import Resumption
from lit_ad.training.checkpoints import KeepProgress
from lit_ad.training.final_weights import FinalWeights
from lit_ad.training.interruption import Interruption
from lit_ad.training.monitors import MonitorCheck
from lit_ad.training.speed import TrainingSpeed
from lit_ad.training.watch import Watch


def add_callbacks(trainer: L.Trainer, config: Namespace) -> tuple[Interruption, Watch, KeepProgress]:
    """Give a trainer the callbacks of a run, and return those that the command asks later.

    Args:
        trainer: It has the callbacks with keys already.
        config: Of the command; checkpoint.dirpath is known.
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
            callback.save_last = False  # which is of the latest that was best, and no file is to be written twice
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if checkpoint.save_last:
        callbacks.append(FinalWeights(last))
    interruption = Interruption(last, way_to_restart(config), part=config.data.split.fold is not None)
    watch = Watch(config.patience)
    callbacks += [MonitorCheck(), Resumption(), TrainingSpeed(), TrainingRecord(), keep, interruption, watch]
    return interruption, watch, keep
