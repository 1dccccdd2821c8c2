"""A training that goes on with other settings uses these settings and reports them."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lit_ad import methods
from lit_ad.batch import Prediction
from lit_ad.data import AnomalyDataModule, Loading, MVTec
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods.base import Method
from lit_ad.training import Calibration, Resumption


class Rates(L.Callback):
    """Record the options of the optimizer at the end of each epoch, and save a checkpoint of the first epoch."""

    def __init__(self, checkpoint: Path | None = None) -> None:
        self.checkpoint = checkpoint
        self.options: list[dict[str, Any]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        (group,) = trainer.optimizers[0].param_groups
        self.options.append({name: value for name, value in group.items() if name != "params"})
        if self.checkpoint is not None and trainer.current_epoch == 0:
            trainer.save_checkpoint(self.checkpoint)


@pytest.fixture
def fit(images: Path, small_models: dict[str, dict[str, Any]], tmp_path: Path, quiet_trainer: Any) -> Any:
    """fit(method, its arguments, resumed, epochs) -> the options of each epoch. An epoch has three steps."""

    def run(name: str, arguments: dict[str, Any], resumed: Path | None = None, epochs: int = 3) -> list[dict[str, Any]]:
        torch.manual_seed(0)
        given = small_models[name]["init_args"]
        method: Method = getattr(methods, name)(**{**given, "view": View(**given["view"]), **arguments})
        data = AnomalyDataModule(MVTec(images), method.view, batch_size=3, loading=Loading(num_workers=0))
        rates = Rates(None if resumed else tmp_path / f"{arguments}.ckpt")
        callbacks = [Calibration(0.4), Resumption(), rates]
        trainer = quiet_trainer(tmp_path, *callbacks, max_epochs=epochs, limit_train_batches=3)
        trainer.fit(method, data, ckpt_path=resumed, weights_only=True)
        return rates.options

    return run


def test_a_resumed_training_that_is_finished_says_that_nothing_is_left(
    fit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("lit_ad.training.resumption.rank_zero_info", said.append)
    fit("STFPM", {}, epochs=1)
    assert fit("STFPM", {}, resumed=tmp_path / "{}.ckpt", epochs=1) == []
    assert said == [
        f"Nothing was left to train: {tmp_path}/{{}}.ckpt has reached trainer.max_epochs or trainer.max_steps; raise "
        "them to train on"
    ]
    assert len(fit("STFPM", {}, resumed=tmp_path / "{}.ckpt", epochs=2)) == 1 and len(said) == 1


@pytest.mark.parametrize(
    ("name", "then", "now"),
    [
        ("STFPM", {"lr": 0.1}, {"lr": 0.01, "weight_decay": 0.5, "momentum": 0.3}),  # without a schedule
        ("EfficientAD", {"lr": 1e-3}, {"lr": 1e-4, "weight_decay": 0.1}),  # a schedule of steps
        ("MixedTeacher", {"lr": 1e-3}, {"lr": 1e-4}),  # one cycle, which also changes the momentum
        ("Dinomaly", {"lr": 1e-3}, {"lr": 1e-4, "final_lr": 1e-5}),  # a schedule that is a function of the step
        ("INPFormer", {"lr": 1e-3}, {"lr": 1e-4, "final_lr": 1e-5, "weight_decay": 0.1}),
    ],
)
def test_the_optimizer_of_a_resumed_training_has_the_new_settings(
    name: str, then: dict[str, Any], now: dict[str, Any], fit: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In each epoch, the options equal those of a training that had the new settings from the beginning. The first
    training was planned to be shorter."""
    expected = fit(name, now)
    fit(name, then, epochs=2)
    capsys.readouterr()
    resumed = fit(name, now, resumed=tmp_path / f"{then}.ckpt")
    assert len(resumed) == 2
    for options, right in zip(resumed, expected[1:], strict=True):
        assert options.keys() == right.keys()
        for key, value in right.items():
            assert options[key] == pytest.approx(value), key


def test_a_resumed_training_with_equal_settings_changes_no_option(
    fit: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A rate that was changed in the checkpoint stays too."""
    caplog.set_level("INFO")
    fit("STFPM", {"lr": 0.1})
    file = tmp_path / f"{ {'lr': 0.1} }.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] = 0.07
    torch.save(checkpoint, file)
    assert [options["lr"] for options in fit("STFPM", {"lr": 0.1}, resumed=file)] == [0.07, 0.07]
    assert "other settings" not in caplog.text
    fit("STFPM", {"lr": 0.2}, resumed=file)
    assert "model.lr: 0.2 from here on, 0.1 in the checkpoint" in caplog.text


def test_a_plateau_schedule_keeps_its_lowered_rate_unless_the_rate_is_changed(
    parts: Path, tmp_path: Path, quiet_trainer: Any
) -> None:
    """A new rate replaces the lowered rate."""
    for asked, expected in ((0.1, 0.05), (0.3, 0.3)):
        rates = []
        for lr, resumed in ((0.1, None), (asked, tmp_path / "first.ckpt")):
            model = Plateau(lr, decay=0.0 if resumed is None else 0.2)
            data = AnomalyDataModule(MVTec(parts / "nut"), model.view, batch_size=4, loading=Loading(num_workers=0))
            trainer = quiet_trainer(tmp_path, Calibration(0.4), Resumption(), rate := Rates(), max_epochs=3)
            if resumed is None:
                trainer.fit(model, data)
                trainer.optimizers[0].param_groups[0]["lr"] = 0.05
                trainer.save_checkpoint(tmp_path / "first.ckpt")
            else:
                trainer.fit_loop.max_epochs = 4
                trainer.fit(model, data, ckpt_path=resumed, weights_only=True)
            rates.append(rate.options[-1])
        assert rates[-1]["lr"] == expected
        assert rates[-1]["weight_decay"] == 0.2


class Plateau(Method):
    """A method whose learning rate falls when the loss does not fall any more."""

    def __init__(self, lr: float, decay: float, view: View = View(None)) -> None:
        super().__init__(view)
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.lr, self.decay = lr, decay

    def describe(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [images]

    def compare(self, images: torch.Tensor, features: list[torch.Tensor]) -> torch.Tensor:
        return images.mean(dim=1, keepdim=True) * self.weight

    def loss(self, disagreement: torch.Tensor) -> torch.Tensor:
        return disagreement.mean()

    def detect(self, disagreement: torch.Tensor) -> Prediction:
        return Prediction(disagreement)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, weight_decay=self.decay)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=99)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val/loss"}}


def test_a_checkpoint_that_holds_weights_only_cannot_be_resumed(fit: Any, tmp_path: Path) -> None:
    fit("STFPM", {"lr": 0.1})
    file = tmp_path / f"{ {'lr': 0.1} }.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    del checkpoint["optimizer_states"]
    torch.save(checkpoint, file)
    with pytest.raises(UserError, match="holds weights only"):
        fit("STFPM", {"lr": 0.1}, resumed=file)
