"""The progress line of a training shows the epoch, the latest losses, and the time left of all epochs."""

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest

from lit_ad.data import AnomalyDataModule, MVTec
from lit_ad.image.view import View
from lit_ad.methods import STFPM
from lit_ad.training.progress import Progress, count_parameters, count_total_batches, format_millions


class Lines(Progress):
    """Record the text of every update of the line."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        shown = super().get_metrics(trainer, pl_module)
        epoch = self._get_train_description(trainer.current_epoch).strip()
        self.lines.append(" ".join([epoch, *(f"{name} {type(value).__name__}" for name, value in shown.items())]))
        return shown


def train(images: Path, home: Path, model: STFPM, line: Progress, **options: Any) -> L.Trainer:
    """Train with six batches for each epoch."""
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary", "num_sanity_val_steps"), False)
    trainer = L.Trainer(default_root_dir=home, callbacks=[line], accelerator="cpu", **{**off, **options})
    trainer.fit(model, AnomalyDataModule(MVTec(images), model.view, batch_size=2))
    return trainer


@pytest.fixture
def model(small_models: dict[str, Any]) -> STFPM:
    return STFPM(**{**small_models["STFPM"]["init_args"], "view": View(64)})


def test_the_progress_line_has_the_losses_and_the_time_left_of_all_epochs(
    images: Path, model: STFPM, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line = Lines()
    with caplog.at_level("INFO"):
        trainer = train(images, tmp_path, model, line, max_epochs=2)
    assert line.lines[0] == "Epoch 1 of 2 loss float left str"
    assert "Epoch 2 of 2 loss float val/loss float left str" in line.lines
    assert line.lines[-1] == "Epoch 2 of 2 loss float val/loss float"  # no time is left
    assert count_total_batches(trainer) == 2 * trainer.num_training_batches
    trained, frozen = count_parameters(model)
    assert 0 < trained == sum(p.numel() for p in model.student.parameters()) and frozen > 0
    assert (
        f"STFPM: {format_millions(trained)} parameters are trained, {format_millions(frozen)} are frozen" in caplog.text
    )


def test_the_line_counts_batches_where_steps_end_the_training(images: Path, model: STFPM, tmp_path: Path) -> None:
    """Two batches are one step. The 5 batches of the first epoch are 3 steps, and 2 more steps are 4 batches."""
    totals: list[float] = []

    class Totals(Progress):
        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            super().on_train_epoch_start(trainer, pl_module)
            totals.append(self.total_train_batches)

    train(images, tmp_path, model, Totals(), max_epochs=-1, max_steps=5, accumulate_grad_batches=2)
    assert totals == [5, 4]


def test_the_progress_line_of_a_training_without_an_end_has_no_time_left(
    images: Path, model: STFPM, tmp_path: Path
) -> None:
    line = Lines()
    trainer = train(images, tmp_path, model, line, max_epochs=-1, max_time={"seconds": 1})
    assert count_total_batches(trainer) == math.inf
    assert line.lines and all("left" not in text and text.startswith("Epoch 1 ") for text in line.lines[:1])


def test_the_time_left_follows_from_max_steps(images: Path, model: STFPM, tmp_path: Path) -> None:
    line = Lines()
    trainer = train(images, tmp_path, model, line, max_epochs=-1, max_steps=3)
    assert count_total_batches(trainer) == 3 and any("left str" in text for text in line.lines)


def test_numbers_of_parameters_are_printed_in_thousands_or_millions() -> None:
    assert [format_millions(count) for count in (0, 700_810, 11_200_000)] == ["0.0 K", "700.8 K", "11.2 M"]
