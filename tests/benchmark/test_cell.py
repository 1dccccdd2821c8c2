"""A cell: its record of cost, and its lock for one process at a time. test_runner.py runs real cells."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from lit_ad.benchmark import cell
from lit_ad.benchmark.cell import BUSY, finish_cost, is_finished, save, start_cost
from lit_ad.errors import UserError


def test_the_cost_of_all_attempts(tmp_path: Path) -> None:
    first = start_cost(tmp_path)
    assert (first["seconds"], first["attempts"]) == (0, 1) and abs(first["began"] - time.time()) < 5
    save(tmp_path, finish_cost({**first, "began": time.time() - 60}, finished=False))
    assert not is_finished(tmp_path)
    second = start_cost(tmp_path)
    assert second["seconds"] == pytest.approx(60, abs=1) and second["attempts"] == 2
    save(tmp_path, finish_cost({**second, "began": time.time() - 30}, finished=True))
    assert is_finished(tmp_path)
    cost = json.loads((tmp_path / "cost.json").read_text())
    assert cost["seconds"] == pytest.approx(90, abs=2) and cost["device"] and cost["memory_mib"] > 10


def test_a_killed_attempt_counts_until_its_last_checkpoint(tmp_path: Path) -> None:
    began = time.time() - 1000
    save(tmp_path, {"seconds": 5.0, "attempts": 1, "began": began})
    assert start_cost(tmp_path)["seconds"] == 5  # without a checkpoint nothing of it is left
    last = tmp_path / "checkpoints/last.ckpt"
    last.parent.mkdir()
    last.touch()
    os.utime(last, (began + 100, began + 100))
    assert start_cost(tmp_path)["seconds"] == pytest.approx(105)


def test_a_cell_without_record_is_not_finished(tmp_path: Path) -> None:
    assert not is_finished(tmp_path)
    (tmp_path / "metrics.json").touch()
    assert not is_finished(tmp_path)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "cost.json").write_text('{"seconds": 1')
    for use in (is_finished, start_cost):
        with pytest.raises(UserError, match=rf"{tmp_path}/cost.json is damaged \(.*\): remove {tmp_path}, so that"):
            use(tmp_path)


def test_a_cell_of_another_process_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell, "PATIENCE", 0.1)
    monkeypatch.setattr(cell, "die_with_parent", lambda parent: None)  # this process is to live
    monkeypatch.setattr(sys, "argv", ["cell", str(tmp_path), "0"])
    with FileLock(tmp_path / "cell.lock", is_singleton=False), pytest.raises(SystemExit) as stop:
        cell.main()
    assert stop.value.code == BUSY and not (tmp_path / "cost.json").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="on other systems a cell goes on alone")
def test_a_cell_ends_if_its_benchmark_died_before(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lit_ad.benchmark.cell", str(tmp_path), "1", "--config", "x.yaml"]
    assert subprocess.run(command, check=False).returncode == 128 + 15
    assert not (tmp_path / "cost.json").exists()
