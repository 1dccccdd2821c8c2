"""`lit-ad cache` lists, clears and prunes the caches that runs wrote, and touches nothing else."""

import io
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from lit_ad.commands.main import main
from lit_ad.data.sources.shapes import keep_mask
from lit_ad.features.layout import add_run, list_stores
from lit_ad.features.store import load_or_compute

DAY = 24 * 60 * 60


def lit_ad(*arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lit-ad", *map(str, arguments)])
        main()


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default directory of the caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home/lit_ad/features"


def keep(directory: Path, images: Path, days: float = 0, count: int = 3) -> Path:
    """A cache of `count` images that was last used `days` days ago."""
    images.mkdir(parents=True, exist_ok=True)
    files = []
    for i in range(count):
        file = images / f"{i}.png"
        if not file.exists():
            file.write_bytes(bytes(i))
        files.append((str(file), file.stat().st_size, file.stat().st_mtime_ns))
    about = {"files": files, "view": {"image_size": 64, "tile": None}, "teachers": [["Teacher", "resnet18", "f00d"]]}
    kept = load_or_compute(directory, about, count, "float32", lambda: iter([[torch.ones(count, 2**12, 8, 8)]])).folder
    then = time.time() - days * DAY
    for file in kept.iterdir():
        os.utime(file, (then, then))
    return kept


def test_list_prints_size_day_and_content_of_each_cache(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(directory, tmp_path / "old", days=40)
    keep(directory, tmp_path / "new", count=2)
    (directory / ("0" * 24 + ".partial")).mkdir()
    (directory / ("1" * 24)).mkdir()
    (directory / ("1" * 24) / "tap0.npy").write_bytes(bytes(2**19))
    capsys.readouterr()
    lit_ad("cache")
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == f"{directory}: 4 caches, 5.5 MiB"
    day = time.strftime("%Y-%m-%d", time.localtime(time.time() - 40 * DAY))
    assert lines[0] == f"   3.0 MiB  {day}  3 inputs of {tmp_path}/old, resnet18, image_size 64, float32"
    rest = sorted(line.split("  ")[-1] for line in lines[1:])
    assert rest == [
        f"2 inputs of {tmp_path}/new, resnet18, image_size 64, float32",
        "incomplete: the run that wrote it was killed",
        "unknown: its about.json cannot be read",
    ]


def test_list_names_the_runs_and_users_of_a_cache(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """clear names them too before it asks: people see which runs would compute the features again."""
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    store = keep(directory, tmp_path / "part")
    keep(directory, tmp_path / "other", days=3)
    for name in "abcd":
        add_run(store, tmp_path / "runs" / name)
    said = f"used by 4 runs: {tmp_path}/runs/d of ada, {tmp_path}/runs/c of ada, {tmp_path}/runs/b of ada and 1 more"
    capsys.readouterr()
    lit_ad("cache")
    assert [line.strip() for line in capsys.readouterr().out.splitlines()[3:]] == [said]
    with pytest.raises(SystemExit):
        lit_ad("cache", "clear")
    assert said in capsys.readouterr().out and store.exists()


def test_an_empty_cache_directory(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lit_ad("cache", "list")
    assert capsys.readouterr().out == f"{directory}: no caches, 0 KiB\n"
    lit_ad("cache", "clear", "--yes")


def test_clear_removes_all_caches_or_old_ones(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = keep(directory, tmp_path / "old", days=40), keep(directory, tmp_path / "new", days=2)
    lit_ad("cache", "clear", "--yes", "--older", 30)
    assert not old.exists() and new.exists()
    out = capsys.readouterr().out.splitlines()
    assert out[-2].startswith("removed 3.0 MiB  ") and out[-1] == "3.0 MiB are free again"
    keep(directory, tmp_path / "old", days=40)
    assert old.exists()
    lit_ad("cache", "clear", "--yes")
    assert list(directory.iterdir()) == []
    assert (tmp_path / "old/0.png").exists()


def test_prune_removes_caches_that_no_run_can_use(directory: Path, tmp_path: Path) -> None:
    whole, gone, written = (keep(directory, tmp_path / name) for name in ("whole", "gone", "written"))
    half = directory / ("0" * 24 + ".partial")
    half.mkdir()
    lit_ad("cache", "prune", "--yes")
    assert whole.exists() and gone.exists() and written.exists() and not half.exists()
    (tmp_path / "gone/1.png").unlink()
    os.utime(tmp_path / "written/2.png", (0, 0))
    lit_ad("cache", "prune", "--yes")
    assert whole.exists() and not gone.exists() and not written.exists()


def test_list_marks_stale_caches(directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(directory, tmp_path / "part")
    shutil.rmtree(tmp_path / "part")
    capsys.readouterr()
    lit_ad("cache")
    assert capsys.readouterr().out.splitlines()[1].endswith("; stale: 3 of 3 images gone or changed")


def test_masks_of_boxes_are_listed_and_cleared(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = (keep_mask(np.arange(9000).reshape(90, 100) % count == 0) for count in (2, 3))
    other = old.with_name("mine.png")
    other.write_bytes(b"")
    month_ago = time.time() - 30 * DAY
    for mask in (old, new):
        os.utime(mask, (month_ago, month_ago))
    assert keep_mask(np.arange(9000).reshape(90, 100) % 3 == 0) == new  # used again
    lit_ad("cache")
    assert f"{old.parent}: 2 masks of boxes and polygons, 1 KiB" in capsys.readouterr().out
    lit_ad("cache", "prune", "--yes")
    assert old.is_file()
    lit_ad("cache", "clear", "--yes", "--older", 7)
    assert not old.is_file() and new.is_file()
    assert f"removed 1 mask of boxes and polygons in {old.parent}" in capsys.readouterr().out
    lit_ad("cache", "clear", "--yes", "--directory", directory)
    assert new.is_file()
    lit_ad("cache", "clear", "--yes")
    assert not new.is_file() and other.is_file()


def test_a_cache_that_is_being_written_is_left_alone(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "0" * 24
    (directory / f"{key}.partial").mkdir(parents=True)
    with FileLock(directory / f"{key}.lock"):
        for action in ("list", "clear", "prune"):
            # In a process of its own, as a lock is a process's.
            done = subprocess.run([sys.executable, "-m", "lit_ad", "cache", action], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert "being written" in done.stdout or action != "list"
            assert (directory / f"{key}.partial").is_dir() and (directory / f"{key}.lock").is_file()
    lit_ad("cache", "prune", "--yes")
    assert list(directory.iterdir()) == []


def test_other_folders_stay(tmp_path: Path) -> None:
    """Also in another --directory."""
    other = [tmp_path / "photographs", tmp_path / "model.partial", tmp_path / "notes"]
    for folder in other:
        folder.mkdir()
        (folder / "a.png").touch()
    kept = keep(tmp_path, tmp_path / "images")
    lit_ad("cache", "clear", "--yes", "--directory", tmp_path)
    assert all((folder / "a.png").exists() for folder in other) and not kept.exists()


def test_clear_of_another_directory(tmp_path: Path, directory: Path) -> None:
    here, there = keep(directory, tmp_path / "part"), keep(tmp_path / "disk", tmp_path / "part")
    lit_ad("cache", "clear", "--yes", "--directory", tmp_path / "disk")
    assert here.exists() and not there.exists()


def test_older_goes_with_clear(directory: Path) -> None:
    with pytest.raises(SystemExit, match="--older works with clear only, not with prune"):
        lit_ad("cache", "prune", "--older", 3)


def test_days_are_not_negative(directory: Path, tmp_path: Path) -> None:
    keep(directory, tmp_path / "images")
    with pytest.raises(SystemExit, match="--older is -5, but it must be 0 or more"):
        lit_ad("cache", "clear", "--older", -5)
    assert list_stores(directory)


def test_clear_asks_before_it_removes(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(directory, tmp_path / "images")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(SystemExit, match="nothing was removed: add --yes to remove what is listed"):
        lit_ad("cache", "clear")
    assert list_stores(directory) and "inputs of" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    for answer, left in (("n", True), ("", True), ("y", False)):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        lit_ad("cache", "clear")
        assert bool(list_stores(directory)) is left
