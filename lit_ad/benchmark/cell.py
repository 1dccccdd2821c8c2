"""Run a cell of a benchmark: one `lit-ad fit` with its test, in a process and a directory of its own.

`python -m lit_ad.benchmark.cell HOME PARENT ARGUMENTS...` resumes from the cell's last checkpoint, locks HOME while it
works, and writes time and memory to HOME/cost.json. PARENT is the benchmark's process id.
"""

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lit_ad.errors import UserError
from lit_ad.files import atomic_write
from lit_ad.machine import peak_memory

BUSY = 75  # exit code if another process has the cell: EX_TEMPFAIL of sysexits.h
PATIENCE = 30.0  # seconds to wait for the lock; a cell whose benchmark was killed needs time to end its batch


def die_with_parent(parent: int) -> None:
    """Let the system send SIGTERM to this process when its parent dies, in whatever way.

    On systems other than Linux nothing is done: the cell goes on alone, and the next benchmark waits for it.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # sys/prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
        if os.getppid() != parent:  # the parent died before the call
            sys.exit(128 + signal.SIGTERM)


def read_record(file: Path) -> dict[str, Any]:
    """Read a JSON file of a cell. Raises UserError if it is damaged."""
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}): remove {file.parent}, so that the cell starts again") from error
    return record


def start_cost(home: Path) -> dict[str, Any]:
    """Return the cost record at the start of an attempt. A killed attempt counts until its last checkpoint."""
    record, last = home / "cost.json", home / "checkpoints" / "last.ckpt"
    cost = read_record(record) if record.is_file() else {"seconds": 0.0, "attempts": 0}
    if cost.get("began") is not None and last.is_file():
        cost["seconds"] += max(0.0, last.stat().st_mtime - cost["began"])
    return {"seconds": cost["seconds"], "attempts": cost["attempts"] + 1, "began": time.time()}


def finish_cost(cost: dict[str, Any], finished: bool) -> dict[str, Any]:
    """Return the cost record at the end: seconds of all attempts, peak memory (MiB) and device of this attempt."""
    import torch

    gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "seconds": cost["seconds"] + time.time() - cost["began"],
        "attempts": cost["attempts"],
        "memory_mib": round((peak_memory() or 0) / 2**20) or None,
        "gpu_memory_mib": round(torch.cuda.max_memory_allocated() / 2**20) if gpu else None,
        "device": torch.cuda.get_device_name() if gpu else "CPU",
        "finished": finished,
    }


def is_finished(home: Path) -> bool:
    """Return whether a cell's process has ended well. metrics.json is no proof, because other files follow it."""
    record = home / "cost.json"
    return record.is_file() and bool(read_record(record).get("finished"))


def save(home: Path, cost: dict[str, Any]) -> None:
    """Write the cost record to HOME/cost.json."""
    with atomic_write(home / "cost.json") as temporary:
        temporary.write_text(json.dumps(cost, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Run the cell that the command line names. The exit code is BUSY if another process has it."""
    home, parent = Path(sys.argv[1]), int(sys.argv[2])
    die_with_parent(parent)
    lock = FileLock(home / "cell.lock")
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        sys.exit(BUSY)
    if is_finished(home):
        return
    last = home / "checkpoints" / "last.ckpt"
    sys.argv = ["lit-ad", "fit", *sys.argv[3:], *(["--ckpt_path", str(last)] if last.is_file() else [])]
    cost, finished = start_cost(home), False
    save(home, cost)
    from lit_ad.commands.main import main as command

    try:
        command()
        finished = True
    finally:
        save(home, finish_cost(cost, finished))


if __name__ == "__main__":
    main()
