"""best.ckpt holds the weights that a validation measured, and last.ckpt holds the latest weights. Each file has its own
decision."""

import csv
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from lit_ad import Detector
from lit_ad.commands.main import main
from lit_ad.data import AnomalyDataModule, Loading, MVTec
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.training.best_checkpoint import BestCheckpoint
from lit_ad.training.checkpoints import KeepProgress

ROOT = Path(__file__).parents[2]
Fit = Callable[..., tuple[int, str]]


@pytest.fixture
def fit(images: Path, resnet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Fit:
    """fit(more arguments) -> exit code and printed text. An epoch has three steps, and the run is in tmp_path /
    "run"."""

    def run(*more: object) -> tuple[int, str]:
        arguments = [
            *("fit", "--config", ROOT / "configs/stfpm.yaml", "--model.backbone", "resnet10t"),
            *("--model.weights", resnet_file, "--data.source.root", images, "--model.view.image_size", 32),
            *("--data.batch_size", 4, "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
            *("--heatmaps.enabled", "false", "--cache.enabled", "false", "--decision.false_alarm", 0.4),
            *("--trainer.default_root_dir", tmp_path / "run", *more),
        ]
        monkeypatch.setattr(sys, "argv", ["lit-ad", *map(str, arguments)])
        try:
            main()
        except SystemExit as stop:
            return int(stop.code) if isinstance(stop.code, int) else 1, f"{stop.code}{capsys.readouterr()}"
        return 0, str(capsys.readouterr())

    return run


def saved(run: Path, name: str) -> dict[str, Any]:
    return dict(torch.load(run / "checkpoints" / name, weights_only=True))


def has_own_decision(run: Path, images: Path, name: str) -> bool:
    """Return whether the held-out scores in a checkpoint are the scores of its weights."""
    held_out = AnomalyDataModule(MVTec(images), View(32)).splits.val
    detector = Detector.load(run / "checkpoints" / name)
    scores = sorted(detector(sample.image).score for sample in held_out)
    decision = saved(run, name)["lit_ad"]["decision"]
    return decision is not None and bool(np.allclose(decision["scores"]["stripes"], scores, rtol=1e-3))


@pytest.mark.parametrize(
    "more",
    [
        ("--checkpoint.every_n_train_steps", 2),
        ("--checkpoint.train_time_interval", "00:00:00:00"),
        ("--checkpoint.every_n_train_steps", 2, "--checkpoint.monitor", "null"),
        ("--trainer.val_check_interval", 2),
        ("--trainer.val_check_interval", 100, "--trainer.check_val_every_n_epoch", "null"),
        ("--trainer.val_check_interval", "00:00:10:00"),
    ],
)
def test_each_saved_checkpoint_has_the_decision_of_its_weights(
    more: tuple[object, ...], fit: Fit, images: Path, tmp_path: Path
) -> None:
    """The last step of the training is validated too."""
    code, words = fit("--trainer.max_epochs", 3, *more)
    assert code == 0, words
    assert saved(tmp_path / "run", "last.ckpt")["global_step"] == 9
    for name in ("best.ckpt", "last.ckpt"):
        assert has_own_decision(tmp_path / "run", images, name)


def test_the_latest_step_is_saved_during_the_first_epoch(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    """Before the first validation, the file has no decision."""
    last = tmp_path / "last.ckpt"
    steps: list[tuple[int, int]] = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            if last.is_file():
                file = torch.load(last, weights_only=True)
                assert file["lit_ad"]["decision"] is None
                steps.append((trainer.global_step, file["global_step"]))

    model = brightness()
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, batch_size=2, loading=Loading(num_workers=0))
    trainer = quiet_trainer(tmp_path, Watch(), KeepProgress(last, every_n_train_steps=2), max_epochs=1)
    trainer.fit(model, data)
    assert steps == [(2, 2), (3, 2)]
    assert torch.load(last, weights_only=True)["global_step"] == 4


def test_a_training_that_ends_in_an_error_keeps_the_best_checkpoint(fit: Fit, tmp_path: Path) -> None:
    (tmp_path / "breaking.py").write_text(
        "import lightning as L\n"
        "class Break(L.Callback):\n"
        "    def on_train_batch_end(self, trainer, *_):\n"
        "        if trainer.global_step == 5: raise RuntimeError('a bug')\n"
    )
    sys.path.append(str(tmp_path))
    with pytest.raises(RuntimeError, match="a bug"):
        fit(
            "--trainer.max_epochs", 3, "--trainer.callbacks", "breaking.Break", "--checkpoint.save_on_exception", "true"
        )
    sys.path.remove(str(tmp_path))
    assert saved(tmp_path / "run", "best.ckpt")["global_step"] == 3
    last = saved(tmp_path / "run", "last.ckpt")
    assert last["global_step"] == 5
    assert last["lit_ad"]["decision"] is None


def test_a_training_resumed_from_best_gives_the_weights_of_an_uninterrupted_one(fit: Fit, tmp_path: Path) -> None:
    stopping = "[{class_path: EarlyStopping, init_args: {monitor: val/loss, patience: 9}}]"
    more = ("--trainer.callbacks", stopping, "--test_after_fit", "false")
    states = []
    for resumed in ((), ("--ckpt_path", tmp_path / "best.ckpt")):
        code, words = fit("--trainer.max_epochs", 2, *more, *resumed)
        assert code == 0, words
        states.append(saved(tmp_path / "run", "last.ckpt"))
        if not resumed:
            (tmp_path / "run/checkpoints/best.ckpt").rename(tmp_path / "best.ckpt")
            assert fit("--trainer.max_epochs", 4, *more, "--overwrite", "true")[0] == 0
            whole = saved(tmp_path / "run", "last.ckpt")
    code, words = fit("--trainer.max_epochs", 4, *more, "--ckpt_path", tmp_path / "best.ckpt")
    assert code == 0, words
    resumed_state = saved(tmp_path / "run", "last.ckpt")["state_dict"]
    assert all(torch.equal(tensor, resumed_state[name]) for name, tensor in whole["state_dict"].items())


def test_a_moved_run_finds_its_best_checkpoint(fit: Fit, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A worse checkpoint does not replace the best checkpoint. A run that goes on in another folder says that it has no
    best checkpoint there."""
    caplog.set_level("INFO")
    more = ("--test_after_fit", "false", "--checkpoint.mode", "max")  # the first checkpoint is the best one
    assert fit("--trainer.max_epochs", 2, *more)[0] == 0
    assert saved(tmp_path / "run", "best.ckpt")["global_step"] == 3
    (tmp_path / "run").rename(tmp_path / "moved")
    last = ("--ckpt_path", tmp_path / "moved/checkpoints/last.ckpt")
    assert fit("--trainer.max_epochs", 3, *more, *last, "--trainer.default_root_dir", tmp_path / "moved")[0] == 0
    assert saved(tmp_path / "moved", "best.ckpt")["global_step"] == 3
    assert fit("--trainer.max_epochs", 4, *more, *last)[0] == 0
    assert f"moved/checkpoints/best.ckpt, is not in {tmp_path / 'run'}/checkpoints" in caplog.text
    assert saved(tmp_path / "run", "best.ckpt")["global_step"] == 12


def test_a_limit_below_the_step_of_the_checkpoint_is_refused(fit: Fit, tmp_path: Path) -> None:
    assert fit("--trainer.max_epochs", 1, "--test_after_fit", "false")[0] == 0
    last = tmp_path / "run/checkpoints/last.ckpt"
    _, words = fit("--ckpt_path", last, "--trainer.max_epochs", -1, "--trainer.max_steps", 2)
    assert "last.ckpt is of step 3, but trainer.max_steps is 2" in words


def test_the_latest_checkpoint_is_tested_where_there_is_no_best(fit: Fit, images: Path, tmp_path: Path) -> None:
    code, words = fit("--trainer.max_epochs", 2, "--checkpoint.save_top_k", 0)
    assert code == 0
    assert "No best checkpoint was kept: the test uses last.ckpt" in words
    detector = Detector.load(tmp_path / "run/checkpoints/last.ckpt")
    with (tmp_path / "run/scores.csv").open() as file:
        for row in csv.DictReader(file):
            assert float(row["score"]) == pytest.approx(detector(row["path"]).score, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_n_train_steps": 3}, "checkpoint.save_last is false"),
        ({"save_on_exception": True}, "checkpoint.save_last is false"),
        ({"monitor": "val/loss", "save_on_train_epoch_end": True}, "save_on_train_epoch_end could save other weights"),
    ],
)
def test_settings_of_checkpoints_that_exclude_each_other_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        BestCheckpoint(**arguments)
