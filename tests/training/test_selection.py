"""The decision lists what a training chose on the held-out images, in addition to the threshold."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lit_ad.data import AnomalyDataModule, Loading, MVTec
from lit_ad.training import Calibration

EPOCH = "the epoch of the best checkpoint (by val/loss)"


def chosen(
    model: Any, parts: Path, home: Path, quiet_trainer: Any, *callbacks: Any, **more: Any
) -> tuple[list[str], Any]:
    """Fit, and return what the training chose for the category nut, and the trainer."""
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, batch_size=2, loading=Loading(num_workers=0))
    trainer = quiet_trainer(home, Calibration(0.4), *callbacks, **more)
    trainer.fit(model, data)
    return list(model.decision.also_chosen["nut"]), trainer


@pytest.mark.parametrize(
    ("monitor", "more", "expected"),
    [
        ("val/loss", {"max_epochs": 1}, []),  # one validation gives no choice
        ("val/loss", {"max_epochs": 3}, [EPOCH]),
        ("val/loss", {"max_epochs": 1, "val_check_interval": 0.5}, [EPOCH]),
        ("val/loss", {"max_epochs": -1, "max_steps": 4}, []),  # the steps end with the first epoch
        ("train/loss", {"max_epochs": 3}, []),
        (None, {"max_epochs": 3}, []),
    ],
)
def test_the_decision_lists_the_epoch_where_validations_are_compared(
    monitor: str | None,
    more: Any,
    expected: list[str],
    parts: Path,
    tmp_path: Path,
    brightness: Any,
    quiet_trainer: Any,
) -> None:
    callback = ModelCheckpoint(tmp_path / "checkpoints", monitor=monitor)
    found, trainer = chosen(brightness(), parts, tmp_path, quiet_trainer, callback, **more)
    assert found == expected
    saved = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=True)["lit_ad"]["decision"]
    assert saved["also_chosen"] == {"nut": expected}


def test_the_decision_of_a_resumed_training_lists_the_epoch(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    best = ModelCheckpoint(tmp_path / "checkpoints", monitor="val/loss")
    _, trainer = chosen(brightness(), parts, tmp_path, quiet_trainer, best, max_epochs=1)
    model = brightness()
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, batch_size=2, loading=Loading(num_workers=0))
    again = quiet_trainer(tmp_path, Calibration(0.4), ModelCheckpoint(tmp_path, monitor="val/loss"), max_epochs=2)
    again.fit(model, data, ckpt_path=trainer.checkpoint_callback.best_model_path)
    assert model.decision.also_chosen == {"nut": [EPOCH]}


def test_the_decision_lists_early_stopping_and_the_learning_rate(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    class Plateau(brightness):  # type: ignore[misc]
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val/loss"}}

    found, _ = chosen(Plateau(), parts, tmp_path, quiet_trainer, EarlyStopping("val/loss"), max_epochs=2)
    assert found == ["the epoch that ended the training (by val/loss)", "the learning rate (by val/loss)"]


def test_the_decision_lists_a_scale_computed_from_held_out_images(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    class Nominal(brightness):  # type: ignore[misc]
        def calibrate(self, nominal: Any, held_out: Any) -> None:
            list(nominal)

    class Scaled(brightness):  # type: ignore[misc]
        def calibrate(self, nominal: Any, held_out: Any) -> None:
            list(held_out)

    assert chosen(Nominal(), parts, tmp_path, quiet_trainer)[0] == []
    assert chosen(Scaled(), parts, tmp_path, quiet_trainer)[0] == ["the scale of Scaled's scores (by calibrate)"]
