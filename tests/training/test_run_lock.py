"""Only one training at a time can use the directory of a run."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from lit_ad.errors import UserError
from lit_ad.training.run_lock import DEAD_AFTER, OWNER, Owner, RunLock

HOLDS = """
import sys, time
from pathlib import Path
from lit_ad.training.run_lock import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.acquire()
print("acquired", flush=True)
time.sleep(600)
"""


@contextmanager
def holder(home: Path) -> Iterator[subprocess.Popen[str]]:
    """Run another process that holds the lock of the directory."""
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(home)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "acquired\n"
        yield process
    finally:
        process.kill()
        process.wait()


def left_by(home: Path, owner: Owner, age: float = 0) -> None:
    """Write the record of an owner; the owner renewed the record so many seconds ago."""
    (home / OWNER).write_text(json.dumps(asdict(owner)))
    os.utime(home / OWNER, (time.time() - age,) * 2)


def test_a_directory_in_use_is_refused_and_taken_once_its_owner_is_dead(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "run"
    with holder(home) as process:
        with pytest.raises(UserError, match=rf"run is in use: process {process.pid} on .*, which began at .*, trains"):
            RunLock(home).acquire()
        process.send_signal(signal.SIGKILL)
        process.wait()
        lock = RunLock(home)
        with caplog.at_level(logging.INFO):
            lock.acquire()
        assert f"process {process.pid} on " in caplog.text and "takes over" in caplog.text
    caplog.clear()
    lock.release()
    again = RunLock(home)
    with caplog.at_level(logging.INFO):
        again.acquire()  # the first lock was released, so nobody holds the directory
    assert not caplog.text
    again.release()


def test_an_owner_on_another_machine_counts_as_dead_after_a_time_without_sign(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The file system of the other machine may not report its lock."""
    lock = RunLock(tmp_path)
    owner = Owner(host="another", process=1)
    left_by(tmp_path, owner, age=DEAD_AFTER - 60)
    with pytest.raises(UserError, match=r"process 1 on another.* remove .*run_owner.json"):
        lock.acquire()
    left_by(tmp_path, owner, age=DEAD_AFTER + 60)
    with caplog.at_level(logging.INFO):
        lock.acquire()
    assert "process 1 on another" in caplog.text
    lock.release()


def test_a_requeued_job_takes_over_its_directory_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    lock = RunLock(tmp_path)
    earlier = Owner(host="another", process=1, restarts="0")
    left_by(tmp_path, replace(earlier, restarts="1"))  # another step of the same job, which still runs
    with pytest.raises(UserError, match="Slurm job 17"):
        lock.acquire()
    left_by(tmp_path, earlier)
    with caplog.at_level(logging.INFO):
        lock.acquire()
    assert not caplog.text
    lock.release()


def test_a_damaged_record_does_not_hold_the_directory(tmp_path: Path) -> None:
    (tmp_path / OWNER).write_text("{")
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()
    assert not (tmp_path / OWNER).exists()


def test_a_directory_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to the run's directory"):
        RunLock(tmp_path / "file/run").acquire()
