"""The benchmark's runner: environments and times of its cells, and real cells that are killed and resumed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from lit_ad.benchmark.cell import is_finished
from lit_ad.benchmark.plan import Budget, Cell
from lit_ad.benchmark.runner import Clock, make_environments, print_stopped
from lit_ad.machine import cores


def test_cores_are_shared_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert {place["OMP_NUM_THREADS"] for place in make_environments(2)} == {str(max(1, cores() // 2))}
    assert {place["OMP_NUM_THREADS"] for place in make_environments(2 * cores())} == {"1"}
    assert "OMP_NUM_THREADS" not in make_environments(1)[0]
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert {place["OMP_NUM_THREADS"] for place in make_environments(2)} == {"7"}


def test_gpus_are_handed_out_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert [place["CUDA_VISIBLE_DEVICES"] for place in make_environments(3)] == ["2", "5", "2"]


def test_the_remaining_time_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = Clock(4, 2, Budget(minutes=5))
    assert clock.describe() == "4 cells are left, with at most 10 min of training, and their tests"
    assert Clock(1, 1, Budget(epochs=3)).describe() == "1 cell is left; the time is known when the first one has ended"
    clock.ended, now[0] = 2, 1000.0 + 8 * 60
    assert clock.describe() == "2 cells are left, about 8 min"
    clock.ended = 4
    assert clock.describe() == "No cell is left"


def test_a_stopped_benchmark_prints_the_finished_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = [Cell(tmp_path / name, name, "nut", 0, []) for name in ("a", "b")]
    (tmp_path / "a").mkdir()
    (tmp_path / "a/cost.json").write_text('{"finished": true}')
    print_stopped(cells, tmp_path)
    stopped, following = capsys.readouterr().out.splitlines()
    assert stopped == f"Stopped. Finished: 1 of 2 cells (a/nut/seed-0). Their tables are in {tmp_path}."
    assert following.startswith("The same command resumes")


@pytest.fixture
def two_by_two(images: Path, small_models: dict[str, dict[str, Any]], tmp_path: Path) -> list[str]:
    """The command of two methods and two tasks, 30 epochs of a second or two; tables and runs are in tmp_path/out."""
    for category in ("bolt", "nut"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / category).symlink_to(images)
    methods = {}
    for name in ("STFPM", "DSKD"):
        settings = {"model": small_models[name], "data": {"batch_size": 4, "loading": {"num_workers": 0}}}
        settings |= {"heatmaps": {"enabled": False}, "trainer": {"max_epochs": 30, "accelerator": "cpu"}}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(settings))
        methods[name] = {"config": str(tmp_path / f"{name}.yaml")}
    sources = {"good": {"class_path": "MVTec", "init_args": {"root": str(tmp_path / "data")}}}
    (tmp_path / "benchmark.yaml").write_text(
        json.dumps({"output": str(tmp_path / "out"), "methods": methods, "sources": sources})
    )
    return [sys.executable, "-m", "lit_ad", "benchmark", "--config", str(tmp_path / "benchmark.yaml")]


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux", reason="a cell ends with its benchmark on Linux, whose /proc tells of both"
)
def test_two_at_a_time_killed_and_finished_by_two_processes(two_by_two: list[str], tmp_path: Path) -> None:
    """--jobs 2 does two cells at once, each with half the cores, and SIGKILL to it ends them. Then the same command,
    twice at the same time: each cell is done by one of the two, and the tables have all."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    out, passed = tmp_path / "out", ["--", "--trainer.max_epochs", "40"]
    first = subprocess.Popen([*two_by_two, "--jobs", "2", *passed], env=environment)
    begun = [out / method / "bolt/seed-0" for method in ("STFPM", "DSKD")]
    while not all((home / "checkpoints/last.ckpt").is_file() for home in begun):
        assert first.poll() is None
        time.sleep(0.05)
    children = [int(number) for number in Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()]
    assert len(children) == 2
    for child in children:
        of = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        assert f"OMP_NUM_THREADS={max(1, cores() // 2)}".encode() in of
    first.kill()
    first.wait()
    wait_for(lambda: not any(map(alive, children)))
    assert not any(is_finished(home) for home in begun)
    assert not list(out.rglob("died.txt"))

    both = [
        subprocess.Popen([*two_by_two, *passed], env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        said = [process.communicate()[0] for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], said
    report = json.loads((out / "results.json").read_text())
    assert report["missing"] == {}
    assert [of["attempts"] for of in report["cells"]] == [2, 2, 1, 1]  # bolt, then nut
    for home in begun:
        assert (home / "log.txt").read_text().count("Restored all states from the checkpoint") == 1
    assert [name for name in ("md", "csv", "json", "tex") if not (out / f"results.{name}").is_file()] == []


def wait_for(happens: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(process: int) -> bool:
    """Return whether a process still runs. If its parent was killed, it may remain as a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_a_cell_of_another_process_is_left_alone(two_by_two: list[str], tmp_path: Path) -> None:
    """After half a minute of waiting it counts as not failed, and the other cells are finished."""
    home = tmp_path / "out/STFPM/bolt/seed-0"
    home.mkdir(parents=True)
    with FileLock(home / "cell.lock"):
        command = [*two_by_two, "--only", "[STFPM]", "--", "--trainer.max_epochs", "1"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "STFPM/nut/seed-0: finished" in lines and "STFPM/bolt/seed-0: not finished" in lines
    assert lines[-1] == "Not finished, because another process runs them or stopped them: STFPM/bolt/seed-0"
    assert not (home / "died.txt").exists() and not (home / "cost.json").exists()
    report = json.loads((tmp_path / "out/results.json").read_text())
    assert report["missing"]["STFPM/bolt/seed-0"] == "not finished"


@pytest.mark.slow
def test_killed_and_resumed(two_by_two: list[str], tmp_path: Path) -> None:
    """Two methods, two tasks, two seeds, for real: SIGKILL in the second cell, and a cell that dies each time."""
    command = [*two_by_two, "--seeds", "[0, 1]"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    out = tmp_path / "out"
    first = subprocess.Popen(command, env=environment)
    last = out / "DSKD/bolt/seed-0/checkpoints/last.ckpt"
    while not last.is_file():
        assert first.poll() is None
        time.sleep(0.05)
    first.kill()
    first.wait()
    finished = (out / "STFPM/bolt/seed-0/metrics.json").stat().st_mtime_ns
    assert not (out / "DSKD/bolt/seed-0/metrics.json").is_file()
    # A folder in the place of a file that its run writes: this cell dies, and the others do not mind.
    (out / "STFPM/nut/seed-1/scores.csv/in the way").mkdir(parents=True)

    second = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    why = f"died, exit code 1: lit-ad: cannot write {out}/STFPM/nut/seed-1/scores.csv: "
    last_line = second.stderr.strip().splitlines()[-1]
    assert last_line.startswith("lit-ad: 1 of 8 cells died. Run the same command to try again: STFPM/nut/seed-1 " + why)
    assert (out / "STFPM/bolt/seed-0/metrics.json").stat().st_mtime_ns == finished
    assert json.loads((out / "DSKD/bolt/seed-0/cost.json").read_text())["attempts"] == 2
    assert "Restored all states from the checkpoint" in (out / "DSKD/bolt/seed-0/log.txt").read_text()
    assert not last.is_file() and last.with_name("best.ckpt").is_file()
    report = json.loads((out / "results.json").read_text())
    assert [cell["state"] for cell in report["cells"]].count("finished") == 7
    assert list(report["missing"]) == ["STFPM/nut/seed-1"]
    assert report["missing"]["STFPM/nut/seed-1"].startswith(why)
    assert report["tasks"]["image_auroc"]["DSKD"]["nut"]["seeds"] == 2
