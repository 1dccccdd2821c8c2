"""A cell of a benchmark: one `lit-ad fit`, which tests too, in a process and a directory of its own.

`python -m lit_ad.benchmark.cell HOME ARGUMENTS...` goes on from the cell's last checkpoint, keeps others out of HOME
while it works, and leaves what it took in HOME/cost.json.
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

from lit_ad.files import atomic_write
from lit_ad.machine import peak_memory

BUSY = 75  # exit code where another process has the cell; EX_TEMPFAIL of sysexits.h
PATIENCE = 30.0  # seconds to wait for the lock: a cell whose benchmark was killed may need so long to end its batch


def die_with_parent(parent: int) -> None:
    """Get SIGTERM when the process that started this one dies, however it does. Linux only: elsewhere the cell goes on
    alone, and a benchmark that is started again waits for it."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # sys/prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
        if os.getppid() != parent:  # it died before
            sys.exit(128 + signal.SIGTERM)


def start_cost(home: Path) -> dict[str, Any]:
    """Return the cost record at the start of an attempt. A killed attempt counts until its last checkpoint."""
    record, last = home / "cost.json", home / "checkpoints" / "last.ckpt"
    cost = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {"seconds": 0.0, "attempts": 0}
    if cost.get("began") is not None and last.is_file():
        cost["seconds"] += max(0.0, last.stat().st_mtime - cost["began"])
    return {"seconds": cost["seconds"], "attempts": cost["attempts"] + 1, "began": time.time()}


def finish_cost(cost: dict[str, Any], finished: bool) -> dict[str, Any]:
    """Return the cost record at the end: seconds of all attempts, peak memory of this one in MiB, and its device."""
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
    """Whether a cell's process came to its end: metrics.json alone may be of one that died as it wrote the rest."""
    record = home / "cost.json"
    return record.is_file() and bool(json.loads(record.read_text(encoding="utf-8")).get("finished"))


def save(home: Path, cost: dict[str, Any]) -> None:
    with atomic_write(home / "cost.json") as temporary:
        temporary.write_text(json.dumps(cost, indent=1) + "\n", encoding="utf-8")


def main() -> None:
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
