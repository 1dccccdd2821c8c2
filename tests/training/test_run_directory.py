"""The directory of a run is new, and is removed if the run wrote nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lit_ad.commands.main import main
from lit_ad.errors import UserError
from lit_ad.training.run_directory import RunDirectory, quote_path

ROOT = Path(__file__).parents[2]


def test_runs_that_start_in_the_same_second_have_different_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda _: "now")
    first, second = RunDirectory.new("stfpm"), RunDirectory.new("stfpm")
    assert (first.path, second.path) == (tmp_path / "runs/stfpm/now", tmp_path / "runs/stfpm/now-2")
    first.leave(begun=True)
    assert [path.name for path in (tmp_path / "runs/stfpm").iterdir()] == ["now-2"]
    second.leave(begun=True)
    assert not list(tmp_path.iterdir())


def test_a_directory_with_files_of_the_run_stays(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "runs/one")
    directory.take()
    (directory.path / "config.yaml").touch()
    (directory.path / "checkpoints").mkdir()
    directory.leave(begun=True)
    assert {path.name for path in directory.path.iterdir()} >= {"config.yaml", "checkpoints"}


def test_a_directory_and_a_configuration_that_existed_before_stay(tmp_path: Path) -> None:
    """The first directory is an empty directory of the user; then it holds a configuration of an earlier run."""
    home = tmp_path / "mine"
    home.mkdir()
    directory = RunDirectory(home)
    directory.take()
    (home / "config.yaml").touch()
    directory.leave(begun=True)
    assert home.is_dir() and not list(home.iterdir())
    (home / "config.yaml").touch()
    directory = RunDirectory(home)
    directory.take()
    directory.leave(begun=True)
    assert (home / "config.yaml").is_file()


def test_a_directory_that_holds_a_run_is_refused(tmp_path: Path) -> None:
    RunDirectory(tmp_path).refuse_used()
    (tmp_path / "metrics.json").touch()
    with pytest.raises(UserError, match=r"holds a run already \(metrics.json\)"):
        RunDirectory(tmp_path).refuse_used()


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("fit", ["--data.source.root", "nowhere"]),
        ("fit", ["--model.weights", "nowhere.pt"]),
        ("fit", ["--model.backbone", "no_such_network"]),
        ("fit", ["--trainer.max_epochs", "0"]),
        ("fit", ["--trainer.accelerator", "no_such_device"]),
        ("fit", ["--data.batch_size", "0"]),
        ("fit", ["--ckpt_path", "nowhere.ckpt"]),
        ("fit", ["--data.batch_size", "50", "--data.loading.drop_last", "true"]),
        ("fit", ["--dashboards", "[tensorboard]", "--data.source.root", "nowhere"]),
        ("fit", ["--trainer.default_root_dir", "given/run", "--data.source.root", "nowhere"]),
        ("test", ["--ckpt_path", "nowhere.ckpt"]),
        ("predict", ["--ckpt_path", "nowhere.ckpt", "--data.predict_path", "nowhere"]),
    ],
)
def test_a_command_that_fails_before_it_begins_leaves_no_files(
    images: Path, resnet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, wrong: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [
        *(command, "--config", ROOT / "configs/stfpm.yaml", "--model.backbone", "resnet10t"),
        *("--model.weights", resnet_file, "--model.view.image_size", 64, "--data.source.root", images),
        *("--trainer.accelerator", "cpu", "--cache.enabled", "false", *wrong),
    ]
    monkeypatch.setattr(sys, "argv", ["lit-ad", *map(str, arguments)])
    with pytest.raises(SystemExit):
        main()
    assert not list(tmp_path.iterdir())


def test_a_command_refused_by_the_lock_removes_no_files(tmp_path: Path) -> None:
    home = tmp_path / "run"
    first, second = RunDirectory(home), RunDirectory(home)
    first.take()
    with pytest.raises(UserError, match="is in use"):
        second.take()
    second.leave(begun=False)
    assert (home / ".run_owner.json").is_file()
    first.leave(begun=False)
    assert not home.exists()


def test_a_quoted_path_is_read_correctly_by_a_shell(tmp_path: Path) -> None:
    for name in (b"plain", b"a b", b"it's", b"r\xfcn '1' \\n", b"a\nb", "\u65e5".encode()):
        path = tmp_path / os.fsdecode(name)
        told = subprocess.run(["bash", "-c", f"printf %s {quote_path(path)}"], capture_output=True, check=True).stdout
        assert told == os.fsencode(path)
