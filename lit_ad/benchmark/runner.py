"""Run the cells of a benchmark, each in a process of its own: one `lit-ad fit` with its test."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from filelock import FileLock

from lit_ad.benchmark.cell import BUSY
from lit_ad.benchmark.plan import Budget, Cell, KeptCheckpoints, Published
from lit_ad.benchmark.tables import write_tables
from lit_ad.counts import format_count
from lit_ad.errors import UserError, describe_exit
from lit_ad.files import atomic_write, explain_write_errors
from lit_ad.lightning_cli.launcher import make_environment_without_launcher
from lit_ad.machine import cores


def run_cells(
    cells: list[Cell],
    output: Path,
    metrics: list[str],
    published: dict[str, Published],
    jobs: int,
    share: list[int],
    budget: Budget = Budget(),
    checkpoints: KeptCheckpoints = "best",
) -> None:
    """Run the unfinished cells of a share, and write the tables after each cell.

    Progress and the remaining time are printed after each cell, and the tables at the end.

    Args:
        cells: All cells of the benchmark.
        output: The folder of the tables.
        metrics: The metrics in the tables.
        published: Published figures by method.
        jobs: Number of cells that run at a time.
        share: Indices of the cells that this process runs.
        budget: The limit of each cell's training, for the estimate of the time.
        checkpoints: The checkpoints that a cell keeps when it is finished.

    Raises:
        UserError: Cells failed.
    """
    environments = make_environments(jobs)
    waiting = [cell for number, cell in enumerate(cells) if number in share and not cell.finished]
    free, running = list(range(len(environments))), dict[int, tuple[Cell, subprocess.Popen[bytes]]]()
    done = len(share) - len(waiting)
    write_tables_locked(cells, output, metrics, published)
    print(
        f"{format_count(len(cells), 'cell')}; this process has {len(share)}, and {done} of these are finished",
        flush=True,
    )
    clock = Clock(len(waiting), jobs, budget)
    print(clock.describe(), flush=True)
    try:
        while waiting or running:
            while waiting and free:
                slot, cell = free.pop(0), waiting.pop(0)
                print(f"{cell.name}: starts", flush=True)
                running[slot] = (cell, _start_cell(cell, environments[slot]))
            for slot, (cell, process) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[slot]
                free.append(slot)
                _record_failure(cell, process.returncode)
                if cell.finished:
                    cell.remove_checkpoints(checkpoints)
                write_tables_locked(cells, output, metrics, published)
                clock.ended += 1
                print(f"{cell.name}: {cell.state()}\n{clock.describe()}", flush=True)
            time.sleep(0.1)
    except SystemExit:  # after a signal
        print("\nStopping: each running cell writes a checkpoint first", flush=True)
        raise
    finally:  # the cells end with this process, and write a checkpoint
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()
        if waiting or running:
            print_stopped([cells[number] for number in share], output)
    print("\n" + (output / "results.md").read_text(encoding="utf-8"))
    print(f"The tables are in {output}: results.md, .csv, .json and .tex")
    unfinished = [cells[number] for number in share if not cells[number].finished]
    failed = [cell for cell in unfinished if (cell.home / "died.txt").is_file()]
    left = ", ".join(cell.name for cell in unfinished if cell not in failed)
    if left:
        print(f"Not finished, because another process runs them or stopped them: {left}")
    if failed:
        states = "; ".join(f"{cell.name} {cell.state()}" for cell in failed)
        raise UserError(
            f"{len(failed)} of {format_count(len(share), 'cell')} died. Run the same command to try again: {states}"
        )


class Clock:
    """Estimates the time that the remaining cells may take.

    Args:
        cells: Number of cells to run.
        jobs: Number of cells that run at a time.
        budget: The limit of each cell's training: the only estimate until the first cell has ended.
    """

    def __init__(self, cells: int, jobs: int, budget: Budget) -> None:
        self.cells, self.jobs, self.budget = cells, jobs, budget
        self.ended, self.began = 0, time.monotonic()

    def describe(self) -> str:
        """Return a line with the number of remaining cells and the estimated time."""
        left = self.cells - self.ended
        if left == 0:
            return "No cell is left"
        limit = self.budget.minutes or self.budget.processor_minutes
        cells = format_count(left, "cell is left", "cells are left")
        if self.ended:
            minutes = (time.monotonic() - self.began) / 60 / self.ended * left
            return f"{cells}, about {minutes:.0f} min" if minutes >= 1 else f"{cells}, less than a minute"
        if limit is None:
            return f"{cells}; the time is known when the first one has ended"
        return f"{cells}, with at most {limit * math.ceil(left / self.jobs):g} min of training, and their tests"


def print_stopped(cells: list[Cell], output: Path) -> None:
    """Print which cells are finished, and how to resume."""
    finished = [cell.name for cell in cells if cell.finished]
    named = f" ({', '.join(finished)})" if finished else ""
    total = format_count(len(cells), "cell")
    print(f"Stopped. Finished: {len(finished)} of {total}{named}. Their tables are in {output}.")
    print("The same command resumes: finished cells stay, and a started cell continues from its checkpoint.")


def make_environments(jobs: int) -> list[dict[str, str]]:
    """Return one set of environment variables for each parallel job.

    Each set names one GPU if there is any. With several jobs, it also limits the number of threads, unless
    OMP_NUM_THREADS is set already.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    environments = []
    for job in range(jobs):
        variables = {"CUDA_VISIBLE_DEVICES": gpus[job % len(gpus)]} if gpus else {}
        if jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
            variables["OMP_NUM_THREADS"] = str(max(1, cores() // jobs))
        environments.append({**make_environment_without_launcher(), **variables})
    return environments


def _start_cell(cell: Cell, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start or resume a cell. HOME/log.txt gets its output, unbuffered, so that an error is the last line."""
    (cell.home / "died.txt").unlink(missing_ok=True)
    arguments = ["--config", str(cell.home / "cell.yaml"), "--trainer.default_root_dir", str(cell.home.absolute())]
    command = [sys.executable, "-m", "lit_ad.benchmark.cell", str(cell.home.absolute()), str(os.getpid())]
    unbuffered = {**environment, "PYTHONUNBUFFERED": "1"}
    with (cell.home / "log.txt").open("ab") as log:
        return subprocess.Popen([*command, *arguments, *cell.arguments], env=unbuffered, stdout=log, stderr=log)


def _record_failure(cell: Cell, code: int) -> None:
    """Write HOME/died.txt with the reason if a cell failed: it did not finish, was not busy, and was not stopped."""
    if cell.finished or code in (BUSY, 128 + signal.SIGTERM, -signal.SIGTERM):
        return
    lines = (cell.home / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = lines[-1].strip() if lines else "nothing printed"
    with atomic_write(cell.home / "died.txt") as temporary:
        temporary.write_text(f"{describe_exit(code)}: {last}\n", encoding="utf-8")


def write_tables_locked(cells: list[Cell], output: Path, metrics: list[str], published: dict[str, Published]) -> None:
    """Write the tables, one process at a time. The last process then sees all finished cells."""
    with explain_write_errors(output, "give another --output"):
        output.mkdir(parents=True, exist_ok=True)
        lock = FileLock(output / "tables.lock").acquire()
    with lock:
        write_tables(cells, output, metrics, published)
