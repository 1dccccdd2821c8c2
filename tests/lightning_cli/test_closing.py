"""What commands print at their end names the files that are there, and a command that can be pasted."""

import shlex
from pathlib import Path

import numpy as np
import pytest

from lit_ad.detector.decision import Decision
from lit_ad.lightning_cli.closing import describe_run, describe_test, describe_validation


def make_files(home: Path, *names: str) -> None:
    for name in names:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).touch()


def test_a_run_names_its_files_and_the_next_command(tmp_path: Path) -> None:
    home = tmp_path / "a run"
    make_files(home, "config.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "metrics.json", "notes.txt")
    there, following = describe_run(home)
    assert there == f"This run is in {home}: config.yaml, checkpoints/best.ckpt, checkpoints/last.ckpt, metrics.json"
    assert following.startswith("Next: ")
    assert shlex.split(following.removeprefix("Next: ")) == ["lit-ad", "predict", str(home), "FOLDER_OF_IMAGES"]


def test_a_run_below_the_working_directory_is_named_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "runs/stfpm"
    make_files(home, "config.yaml", "checkpoints/last.ckpt")
    monkeypatch.chdir(tmp_path)
    assert describe_run(home) == [
        "This run is in runs/stfpm: config.yaml, checkpoints/last.ckpt",
        "Next: lit-ad predict runs/stfpm FOLDER_OF_IMAGES",
    ]
    monkeypatch.chdir(home)
    assert describe_run(home)[1] == f"Next: lit-ad predict {home} FOLDER_OF_IMAGES"


def test_a_test_beside_an_earlier_one_says_that_this_one_stays(tmp_path: Path) -> None:
    make_files(tmp_path, "metrics.json", "test-2/metrics.json", "test-2/scores.csv")
    assert describe_test(tmp_path) == [f"metrics.json are in {tmp_path}"]
    home = tmp_path / "test-2"
    assert describe_test(home) == [f"metrics.json, scores.csv are in {home}; the earlier test stays"]


def test_a_run_without_a_best_checkpoint_can_predict(tmp_path: Path) -> None:
    make_files(tmp_path, "config.yaml", "checkpoints/last.ckpt")
    assert describe_run(tmp_path)[1] == f"Next: lit-ad predict {tmp_path} FOLDER_OF_IMAGES"


def test_nothing_is_next_without_a_checkpoint_or_a_configuration(tmp_path: Path) -> None:
    make_files(tmp_path, "checkpoints/best.ckpt")
    assert describe_run(tmp_path) == [f"This run is in {tmp_path}: checkpoints/best.ckpt"]
    make_files(tmp_path / "other", "config.yaml")
    assert describe_run(tmp_path / "other") == [f"This run is in {tmp_path / 'other'}: config.yaml"]


def test_a_validation_says_its_loss_and_its_threshold() -> None:
    decision = Decision({"": np.array([0.5, 0.25, 0.75])}, false_alarm=0.05)
    loss, threshold, saved = describe_validation(0.125, 3, decision)
    assert loss == "val/loss 0.125 of 3 held-out nominal images"
    kept = "25 %, the lowest that the held-out images allow (5 % was asked for)"
    assert threshold == f"threshold 0.75 at a false-alarm rate of {kept}"
    assert saved.startswith("validate saves nothing")
    by_hand = describe_validation(0.125, 3, decision.with_threshold(0.3))[1]
    assert by_hand.startswith("threshold 0.3, set by hand: ") and "false-alarm rate" not in by_hand
    assert describe_validation(None, 0, None) == [saved]


def test_a_test_names_what_it_wrote(tmp_path: Path) -> None:
    make_files(tmp_path, "config.yaml", "metrics.json", "scores.csv")
    assert describe_test(tmp_path) == [f"metrics.json, scores.csv are in {tmp_path}"]
