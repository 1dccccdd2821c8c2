"""A signal ends a training after the current batch, with a checkpoint. A signal ends other commands at once.
tests/test_faults.py tests real runs."""

import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lit_ad.training.checkpoints import KeepProgress
from lit_ad.training.interruption import Interruption, requeue_job


class Model(BoringModel):
    """A model that sends signals to its own process in the middle of the third batch, and counts the finished
    batches."""

    def __init__(self, *signals: int) -> None:
        super().__init__()
        self.signals, self.ended = signals, 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 2:
            for number in self.signals:
                os.kill(os.getpid(), number)
        return super().training_step(batch, batch_idx)

    def on_before_zero_grad(self, optimizer: Any) -> None:
        self.ended += 1

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 1:
            for number in self.signals:
                os.kill(os.getpid(), number)
        self.ended += 1
        return super().test_step(batch, batch_idx)


@pytest.fixture(autouse=True)
def handlers() -> Any:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_a_signal_within_a_batch_saves_a_checkpoint_at_the_end_of_the_batch(
    number: signal.Signals, name: str, tmp_path: Path, quiet_trainer: Any, told: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "last.ckpt"
    interruption = Interruption(file)
    trainer = quiet_trainer(tmp_path, interruption, limit_train_batches=9, val_check_interval=1)
    with pytest.raises(SIGTERMException):
        trainer.fit(model := Model(number))
    checkpoint = torch.load(file, weights_only=True)
    assert checkpoint["global_step"] == 3  # the batch of the signal is complete, and no further batch begins
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in checkpoint["state_dict"].items())
    assert interruption.stopped_by == number
    assert f"Stopped by {name}. To go on: --ckpt_path {file}" in told.text


@pytest.mark.parametrize(
    ("options", "validated"),
    [
        ({"max_epochs": 2, "val_check_interval": 3}, [3, 6, 10, 13, 14]),
        ({"max_epochs": -1, "max_steps": 9, "val_check_interval": 4, "check_val_every_n_epoch": None}, [4, 8, 9]),
    ],
)
def test_a_signal_before_a_validation_skips_no_validation(
    options: dict[str, Any], validated: list[int], tmp_path: Path, quiet_trainer: Any
) -> None:
    """Not even the one after the last step of a training."""
    file = tmp_path / "last.ckpt"

    class Validated(BoringModel):
        steps: list[int]
        stop = -1

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.global_step == self.stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().training_step(batch, batch_idx)

        def on_validation_epoch_start(self) -> None:
            self.steps.append(self.global_step)

    for stop in range(validated[-1]):
        model = Validated()
        model.steps, model.stop = [], stop
        callbacks = [KeepProgress(file), Interruption(file)]
        with pytest.raises(SIGTERMException):
            quiet_trainer(tmp_path, *callbacks, limit_train_batches=7, **options).fit(model)
        model.stop, callbacks = -1, [KeepProgress(file), Interruption(file)]
        trainer = quiet_trainer(tmp_path, *callbacks, limit_train_batches=7, **options)
        trainer.fit(model, ckpt_path=str(file), weights_only=True)
        assert model.steps == validated and trainer.global_step == validated[-1]


def test_a_second_ctrl_c_ends_the_training_at_once(
    tmp_path: Path, quiet_trainer: Any, told: pytest.LogCaptureFixture
) -> None:
    model = Model(signal.SIGINT, signal.SIGINT)
    with pytest.raises(SystemExit):
        quiet_trainer(tmp_path, Interruption(tmp_path / "last.ckpt"), limit_train_batches=9).fit(model)
    assert not (tmp_path / "last.ckpt").exists()
    assert model.trainer.global_step == 2
    assert "Press it again to stop at once" in told.text and "Stopped by Ctrl-C. Nothing was saved yet" in told.text


def test_a_training_in_the_background_ignores_ctrl_c(tmp_path: Path, quiet_trainer: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    quiet_trainer(tmp_path, Interruption(tmp_path / "last.ckpt"), limit_train_batches=4).fit(
        model := Model(signal.SIGINT)
    )
    assert model.trainer.global_step == 4
    assert not (tmp_path / "last.ckpt").exists()


def test_a_signal_ends_a_test_at_once(tmp_path: Path, quiet_trainer: Any, told: pytest.LogCaptureFixture) -> None:
    interruption = Interruption(tmp_path / "last.ckpt")
    model = Model(signal.SIGTERM)
    with pytest.raises(SIGTERMException):
        quiet_trainer(tmp_path, interruption).test(model, verbose=False)
    assert model.ended == 1
    assert not (tmp_path / "last.ckpt").exists()
    assert "Stopped by SIGTERM. To do it again, type the same command" in told.text


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({"SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}, "requeue 7\n"),
        (
            {"SLURM_PROCID": "0", "SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"},
            "requeue 7_2\n",
        ),
        ({"SLURM_PROCID": "1", "SLURM_JOB_ID": "7"}, ""),  # only one process requeues the job
    ],
)
def test_only_the_first_process_requeues_a_slurm_job(
    environment: dict[str, str], asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    requeue_job(signal.SIGUSR1, None)
    file = tmp_path / "asked"
    assert (file.read_text() if file.exists() else "") == asked
