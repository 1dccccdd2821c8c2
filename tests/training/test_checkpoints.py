"""A training keeps every finished epoch, and ends at once where it makes no sense."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_ad.commands.main import main

ROOT = Path(__file__).parents[2]


def fit(monkeypatch: pytest.MonkeyPatch, images: Path, weights: Path, run: Path, *more: object) -> str:
    """Run the command and return the text of its error, or an empty text."""
    arguments = [
        *("fit", "--config", ROOT / "configs/stfpm.yaml", "--model.backbone", "resnet10t", "--model.weights", weights),
        *("--data.source.root", images, "--model.view.image_size", 32, "--data.batch_size", 4, "--model.lr", 0.05),
        *("--trainer.default_root_dir", run, "--trainer.enable_progress_bar", "false", "--heatmaps.enabled", "false"),
        *("--trainer.accelerator", "cpu", *more),
    ]
    monkeypatch.setattr(sys, "argv", ["lit-ad", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return str(stop.code or "")
    return ""


def epoch(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, weights_only=True)["epoch"])


@pytest.mark.parametrize(("epochs", "every"), [(5, 2), (1, 10), (3, 1)])
def test_the_last_epoch_is_validated_and_kept(
    epochs: int,
    every: int,
    images: Path,
    resnet_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    more = ("--trainer.max_epochs", epochs, "--trainer.check_val_every_n_epoch", every)
    assert fit(monkeypatch, images, resnet_file, tmp_path / "a run", *more) == ""
    assert epoch(tmp_path / "a run/checkpoints/last.ckpt") == epochs - 1
    assert torch.load(tmp_path / "a run/checkpoints/best.ckpt", weights_only=True)["lit_ad"]["decision"] is not None
    words = capsys.readouterr().out
    assert f"This run is in {tmp_path}/a run: config.yaml, checkpoints/best.ckpt, checkpoints/last.ckpt" in words
    assert "heatmaps" not in words.split("This run is in")[1]  # the run has written no heatmaps
    assert f"Next: lit-ad predict '{tmp_path}/a run' FOLDER_OF_IMAGES" in words


def test_a_training_limited_by_steps_ends_with_a_validation(
    images: Path, resnet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("--trainer.max_steps", 4, "--trainer.max_epochs", -1, "--trainer.check_val_every_n_epoch", 50)
    assert fit(monkeypatch, images, resnet_file, tmp_path / "run", *more) == ""
    saved = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)
    assert saved["global_step"] == 4
    assert saved["lit_ad"]["decision"] is not None


PROCESSOR_TIME = "[{class_path: lit_ad.benchmark.budget.ProcessorTime, init_args: {minutes: 0.02}}]"


@pytest.mark.parametrize("limit", [("max_time", "{seconds: 1}"), ("callbacks", PROCESSOR_TIME)])
def test_a_training_limited_by_time_ends_with_a_validation(
    images: Path, resnet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: tuple[str, str]
) -> None:
    name, value = limit
    more = (f"--trainer.{name}", value, "--trainer.max_epochs", -1, "--trainer.check_val_every_n_epoch", 5000)
    assert fit(monkeypatch, images, resnet_file, tmp_path / "run", *more) == ""
    saved = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)
    assert saved["lit_ad"]["decision"] is not None


def test_a_training_resumed_after_max_steps_gives_the_weights_of_an_uninterrupted_one(
    images: Path, resnet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """max_steps ends the first training within an epoch of three batches, or at the end of the epoch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one thread adds numbers always in the same order
    quick = ("--trainer.max_epochs", -1, "--cache.enabled", "false", "--test_after_fit", "false")

    def students(run: str, steps: int, *more: object) -> dict[str, torch.Tensor]:
        arguments = (*quick, "--trainer.max_steps", steps, *more)
        assert fit(monkeypatch, images, resnet_file, tmp_path / run, *arguments) == ""
        saved = torch.load(tmp_path / run / "checkpoints/last.ckpt", weights_only=True)
        assert saved["global_step"] == steps
        return dict(saved["state_dict"])

    whole = students("whole", 8)
    for steps in (4, 3):
        students(f"{steps}", steps)
        resumed = students(f"{steps}", 8, "--ckpt_path", tmp_path / f"{steps}/checkpoints/last.ckpt")
        assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--model.lr", 1e30), "the training has diverged. Lower model.lr"),
        (("--model.lr", -1), "lr"),
        (("--trainer.max_epochs", 0), "trainer.max_epochs is 0"),
        (("--trainer.limit_val_batches", 0), "trainer.limit_val_batches is 0"),
        (("--checkpoint.monitor", "nothing"), "nothing"),
        (("--trainer.accelerator", "gpu"), "gpu"),
    ],
)
def test_settings_that_make_no_sense_give_an_error_of_one_line(
    more: tuple[object, ...],
    message: str,
    images: Path,
    resnet_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if more[1] == "gpu" and torch.cuda.is_available():
        pytest.skip("there is one")
    said = fit(monkeypatch, images, resnet_file, tmp_path / "run", "--trainer.max_epochs", 30, *more)
    assert said.startswith("lit-ad: ")
    assert message in said
    assert len(said.splitlines()) <= 2


def test_a_directory_with_a_run_is_refused_unless_overwrite_is_set(
    images: Path, resnet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = ("--trainer.max_epochs", 1, "--test_after_fit", "false")
    assert fit(monkeypatch, images, resnet_file, tmp_path / "run", *once) == ""
    assert "holds a run already" in fit(monkeypatch, images, resnet_file, tmp_path / "run", *once)
    assert fit(monkeypatch, images, resnet_file, tmp_path / "run", *once, "--overwrite", "true") == ""
    resumed = ("--ckpt_path", tmp_path / "run/checkpoints/last.ckpt", "--trainer.max_epochs", 2)
    assert fit(monkeypatch, images, resnet_file, tmp_path / "run", *resumed, *once[2:]) == ""
    fewer = ("--ckpt_path", tmp_path / "run/checkpoints/last.ckpt", "--trainer.max_epochs", 1)
    assert "max_epochs" in fit(monkeypatch, images, resnet_file, tmp_path / "run", *fewer)
