"""The first job runs alone, and a job that hangs is reported and does not keep the process from ending."""

import ast
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_ad.errors import TimeLimitError
from lit_ad.threads import Pool, Workers, enter_stage

PACKAGE = Path(__file__).parents[1] / "lit_ad"


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers(2)
    yield workers
    workers.close()


@pytest.mark.parametrize("kind", ["pool", "workers"])
def test_the_first_job_runs_alone_and_the_others_together(kind: str, workers: Workers) -> None:
    lock, both = threading.Lock(), threading.Barrier(2)
    running = 0

    def job(number: int) -> str:
        nonlocal running
        with lock:
            running += 1
        if number == 0:
            time.sleep(0.2)
            assert running == 1
        else:
            both.wait(60)  # which ends only if two run at once
        with lock:
            running -= 1
        return threading.current_thread().name

    if kind == "workers":
        jobs = [workers.submit(job, number) for number in range(3)]
        assert len({job.result(60) for job in jobs}) == 2
        return
    with Pool(2, "job") as pool:
        names = list(pool.map(job, range(3)))
    assert names[0] == threading.current_thread().name and all(name.startswith("job") for name in names[1:])


def test_a_job_that_hangs_is_reported_with_its_stage(workers: Workers) -> None:
    gate = threading.Event()

    def job() -> str:
        for stage in ("one", "two", "three"):  # together longer than the limit, each of them shorter
            enter_stage(stage)
            time.sleep(0.2)
        enter_stage("the last")
        gate.wait(60)
        return "done"

    hangs, waits = workers.submit(job), workers.submit(str, 1)
    with pytest.raises(TimeLimitError, match=r"^the last has taken more than 0.5 s: it hangs, or"):
        hangs.result(0.5)
    assert workers.hanging(0.5) == ["the last"] and workers.hanging(60) == []
    with pytest.raises(TimeLimitError, match=r"^waiting for a free thread has taken more than 0.01 s"):
        waits.result(0.01)
    gate.set()
    assert (hangs.result(60), waits.result(60), workers.hanging(0)) == ("done", "1", [])


def test_a_job_raises_its_own_error(workers: Workers) -> None:
    def job() -> None:
        raise TimeoutError("of a disk")

    with pytest.raises(TimeoutError, match="of a disk"):
        workers.submit(job).result(60)
    enter_stage("of no job")  # does nothing


def test_a_process_ends_although_a_job_hangs() -> None:
    code = """
import threading, time
from lit_ad import threads
threads.PATIENCE = 0.1
workers = threads.Workers(2)
job = workers.submit(threading.Event().wait)
try:
    job.result(0.1)
except threads.TimeLimitError:
    workers.close(0.1)
    print("told")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "told\n"), done.stderr


def test_the_first_job_raises_its_error_like_any_other() -> None:
    with Pool(2) as pool:
        first, second = (pool.submit(int, "x") for _ in range(2))
    for future in (first, second):
        with pytest.raises(ValueError, match="invalid literal"):
            future.result()


def test_no_module_uses_another_thread_pool() -> None:
    for path in PACKAGE.rglob("*.py"):
        names = {node.id for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Name)}
        assert path.name == "threads.py" or "ThreadPoolExecutor" not in names, path
