"""Nothing begins beside the first job."""

import ast
import threading
import time
from pathlib import Path

import pytest

from lit_ad.threads import Pool

PACKAGE = Path(__file__).parents[1] / "lit_ad"


def test_the_first_job_is_done_alone_and_the_others_together() -> None:
    running, most = [0], [0]
    lock, both = threading.Lock(), threading.Barrier(2)

    def job(number: int) -> str:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        if number == 0:
            time.sleep(0.1)
            assert most[0] == 1
        else:
            both.wait(60)  # which ends only if two run at once
        with lock:
            running[0] -= 1
        return threading.current_thread().name

    with Pool(2, "job") as pool:
        names = list(pool.map(job, range(3)))
    assert names[0] == threading.current_thread().name and all(name.startswith("job") for name in names[1:])


def test_the_error_of_the_first_job_is_told_as_of_any_other() -> None:
    with Pool(2) as pool:
        first, second = (pool.submit(int, "x") for _ in range(2))
    for future in (first, second):
        with pytest.raises(ValueError, match="invalid literal"):
            future.result()


def test_no_other_pools() -> None:
    for path in PACKAGE.rglob("*.py"):
        names = {node.id for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Name)}
        assert path.name == "threads.py" or "ThreadPoolExecutor" not in names, path
