"""The callbacks that every training of the command line gets."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import Namespace

from lit_ad.lightning_cli.callbacks import add_callbacks
from lit_ad.training.final_weights import FinalWeights


@pytest.mark.parametrize("save_last", [True, False])
@pytest.mark.parametrize(("fold", "restart"), [(None, ""), (1, "--trainer.default_root_dir")])
def test_the_callbacks_that_the_command_uses_come_last(
    save_last: bool, fold: int | None, restart: str, tmp_path: Path, quiet_trainer: Any
) -> None:
    checkpoint = Namespace(dirpath=str(tmp_path / "folds/2/checkpoints"), save_last=save_last)
    for name in ("every_n_train_steps", "train_time_interval", "save_on_exception"):
        checkpoint[name] = None
    config = Namespace(
        checkpoint=checkpoint,
        patience=1.0,
        data=Namespace(split=Namespace(folds=None if fold is None else 3, fold=fold)),
    )
    config.trainer = Namespace(default_root_dir=str(tmp_path / "folds/2"))
    trainer = quiet_trainer(tmp_path, ModelCheckpoint(tmp_path, save_last=True))
    interruption, watch, keep = add_callbacks(trainer, config)
    assert trainer.callbacks[-3:] == [keep, interruption, watch]
    assert any(isinstance(callback, FinalWeights) for callback in trainer.callbacks) == save_last
    last = tmp_path / "folds/2/checkpoints/last.ckpt"
    assert keep.checkpoint == (last if save_last else None) and not trainer.checkpoint_callback.save_last
    assert interruption.restart == (f"{restart} {tmp_path}" if fold else "") and interruption.part == (fold is not None)
