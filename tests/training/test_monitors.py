"""A callback that monitors a value that nothing logs ends a training before its first step."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from lit_ad.data import AnomalyDataModule, Loading, MVTec
from lit_ad.errors import UserError
from lit_ad.training import Calibration
from lit_ad.training.monitors import MonitorCheck
from lit_ad.training.speed import TrainingSpeed


class Steps(L.Callback):
    logged = ("val/own",)  # this callback says which value it logs

    def __init__(self) -> None:
        self.count = 0

    def on_train_batch_start(self, *_: Any) -> None:
        self.count += 1

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.log("val/own", 1.0)


class Silent(L.Callback):
    """A callback that may log a value without saying which value."""


@pytest.fixture
def fit(parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any) -> Any:
    """fit(callbacks, the schedule's monitor, its frequency, and more arguments of Trainer) -> number of steps."""

    def run(*callbacks: L.Callback, monitor: str | None = None, frequency: int = 1, **more: Any) -> int:
        class Plateau(brightness):  # type: ignore[misc]
            def configure_optimizers(self) -> Any:
                optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
                if monitor is None:
                    return optimizer
                plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
                schedule = {"scheduler": plateau, "monitor": monitor, "frequency": frequency}
                return {"optimizer": optimizer, "lr_scheduler": schedule}

        model = Plateau()
        data = AnomalyDataModule(MVTec(parts / "nut"), model.view, batch_size=8, loading=Loading(num_workers=0))
        steps = Steps()
        trainer = quiet_trainer(tmp_path, *callbacks, Calibration(0.4), MonitorCheck(), steps, **more)
        try:
            trainer.fit(model, data)
        except UserError:
            assert steps.count == 0
            raise
        return steps.count

    return run


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (
            lambda: EarlyStopping("val_loss"),
            r"EarlyStopping monitors 'val_loss', .* did you mean val/loss\? take",
        ),
        (
            lambda: ModelCheckpoint(monitor="nothing"),
            "ModelCheckpoint monitors 'nothing', which nothing logs: take",
        ),
        (lambda: EarlyStopping("test/image_auroc"), "the test comes after the training, and selects no model"),
    ],
)
def test_a_callback_that_monitors_a_value_that_nothing_logs_is_refused(callback: Any, message: str, fit: Any) -> None:
    with pytest.raises(UserError, match=message):
        fit(callback())


def test_a_schedule_that_monitors_a_value_that_nothing_logs_is_refused(fit: Any) -> None:
    with pytest.raises(UserError, match="ReduceLROnPlateau monitors 'val_loss', which nothing logs"):
        fit(monitor="val_loss")
    with pytest.raises(UserError, match=r"reads val/loss once in 1 epoch, .* return the frequency 2"):
        fit(monitor="val/loss", max_epochs=2, check_val_every_n_epoch=2)
    assert fit(monitor="val/loss", frequency=2, max_epochs=2, check_val_every_n_epoch=2) == 2


def test_the_names_in_logged_are_the_values_that_are_logged(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    model, speed = brightness(), TrainingSpeed()
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, batch_size=8, loading=Loading(num_workers=0))
    trainer = quiet_trainer(tmp_path, Calibration(0.4), speed)
    trainer.fit(model, data)
    gpu = {name for name in trainer.callback_metrics if "gpu" in name}
    assert {*model.logged, *speed.logged} == {*trainer.callback_metrics} - gpu


@pytest.mark.parametrize("name", ["val/loss", "train/loss_step", "train/loss_epoch", "train/loss", "val/own"])
def test_a_value_that_is_logged_can_be_monitored(name: str, fit: Any) -> None:
    assert fit(EarlyStopping(name), ModelCheckpoint(monitor="step", mode="max"), monitor=name) == 1


def test_a_value_that_another_callback_may_log_gives_a_warning(fit: Any) -> None:
    with pytest.warns(UserWarning, match="which nothing logs, unless Silent does"), pytest.raises(RuntimeError):
        fit(EarlyStopping("val/their"), Silent())
    with pytest.warns(UserWarning, match="which nothing logs: take one of"):
        assert fit(EarlyStopping("val/their", strict=False)) == 1
