"""Run the cells of a benchmark: each is one `lit-ad fit` and test in a process of its own."""

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
from lit_ad.benchmark.plan import Budget
from lit_ad.benchmark.tables import Cell, Published, write_tables
from lit_ad.counts import format_count
from lit_ad.errors import UserError, describe_exit
from lit_ad.files import atomic_write, explain_write_errors
from lit_ad.lightning_cli.launcher import environment_alone
from lit_ad.machine import cores


def run_cells(
    cells: list[Cell],
    output: Path,
    metrics: list[str],
    published: dict[str, Published],
    jobs: int,
    share: list[int],
    budget: Budget = Budget(),
) -> None:
    """Do the cells of a share that are not done, `jobs` at a time, and write the tables after each. What is finished,
    and how long the rest may take, is printed on the way; the tables at the end.

    Raises:
        UserError: Cells died.
    """
    places = environments(jobs)
    waiting = [cell for number, cell in enumerate(cells) if number in share and not cell.finished]
    free, running = list(range(len(places))), dict[int, tuple[Cell, subprocess.Popen[bytes]]]()
    done = len(share) - len(waiting)
    write_tables_locked(cells, output, metrics, published)
    print(
        f"{format_count(len(cells), 'cell')}, {len(share)} of them here, {done} of these finished already", flush=True
    )
    clock = Clock(len(waiting), jobs, budget)
    print(clock.describe(), flush=True)
    try:
        while waiting or running:
            while waiting and free:
                place, cell = free.pop(0), waiting.pop(0)
                print(f"{cell.name}: begins", flush=True)
                running[place] = (cell, _start_cell(cell, places[place]))
            for place, (cell, process) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[place]
                free.append(place)
                _record_failure(cell, process.returncode)
                write_tables_locked(cells, output, metrics, published)
                clock.ended += 1
                print(f"{cell.name}: {cell.state()}\n{clock.describe()}", flush=True)
            time.sleep(0.1)
    except SystemExit:  # of a signal
        print("\nStopping: each cell that runs writes a checkpoint first", flush=True)
        raise
    finally:  # a signal to this process ends the cells too, each with a checkpoint
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()
        if waiting or running:
            tell_stopped([cells[number] for number in share], output)
    print("\n" + (output / "results.md").read_text(encoding="utf-8"))
    print(f"The tables are in {output}: results.md, .csv, .json and .tex")
    unfinished = [cells[number] for number in share if not cells[number].finished]
    dead = [cell for cell in unfinished if (cell.home / "died.txt").is_file()]
    left = ", ".join(cell.name for cell in unfinished if cell not in dead)
    if left:
        print(f"Not finished, since another process has them or ended them: {left}")
    if dead:
        states = "; ".join(f"{cell.name} {cell.state()}" for cell in dead)
        raise UserError(
            f"{len(dead)} of {format_count(len(share), 'cell')} died, the same command tries them again: {states}"
        )


class Clock:
    """How long the cells that are left may take.

    Args:
        cells: To do.
        jobs: At a time.
        budget: Of each cell's training: what is known before the first has ended.
    """

    def __init__(self, cells: int, jobs: int, budget: Budget) -> None:
        self.cells, self.jobs, self.budget = cells, jobs, budget
        self.ended, self.began = 0, time.monotonic()

    def describe(self) -> str:
        """In a sentence."""
        left = self.cells - self.ended
        if left == 0:
            return "No cell is left"
        limit = self.budget.minutes or self.budget.processor_minutes
        cells = format_count(left, "cell is left", "cells are left")
        if self.ended:
            minutes = (time.monotonic() - self.began) / 60 / self.ended * left
            return f"{cells}, about {minutes:.0f} min" if minutes >= 1 else f"{cells}, less than a minute"
        if limit is None:
            return f"{cells}; how long they take is known when the first has ended"
        return f"{cells}, with at most {limit * math.ceil(left / self.jobs):g} min of training, and their tests"


def tell_stopped(cells: list[Cell], output: Path) -> None:
    """Print what is finished, and how to go on."""
    finished = [cell.name for cell in cells if cell.finished]
    named = f" ({', '.join(finished)})" if finished else ""
    every = format_count(len(cells), "cell")
    print(f"Stopped. Finished: {len(finished)} of {every}{named}. Their tables are in {output}.")
    print("The same command goes on: what is finished stays, and a cell that had begun goes on from its checkpoint.")


def environments(jobs: int) -> list[dict[str, str]]:
    """The environment of each place that a cell may run at: a GPU of its own in turn, or a share of the cores."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    places = []
    for place in range(jobs):
        given = {"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} if gpus else {}
        if jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
            given["OMP_NUM_THREADS"] = str(max(1, cores() // jobs))
        places.append({**environment_alone(), **given})
    return places


def _start_cell(cell: Cell, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Begin a cell, or go on with it. What it prints is in HOME/log.txt, unbuffered: an error is the last line."""
    (cell.home / "died.txt").unlink(missing_ok=True)
    arguments = ["--config", str(cell.home / "cell.yaml"), "--trainer.default_root_dir", str(cell.home.absolute())]
    command = [sys.executable, "-m", "lit_ad.benchmark.cell", str(cell.home.absolute()), str(os.getpid())]
    unbuffered = {**environment, "PYTHONUNBUFFERED": "1"}
    with (cell.home / "log.txt").open("ab") as log:
        return subprocess.Popen([*command, *arguments, *cell.arguments], env=unbuffered, stdout=log, stderr=log)


def _record_failure(cell: Cell, code: int) -> None:
    """Write down why a cell died, if it did. One that another process has, or that was asked to stop, did not."""
    if cell.finished or code in (BUSY, 128 + signal.SIGTERM, -signal.SIGTERM):
        return
    lines = (cell.home / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = lines[-1].strip() if lines else "nothing printed"
    with atomic_write(cell.home / "died.txt") as temporary:
        temporary.write_text(f"{describe_exit(code)}: {last}\n", encoding="utf-8")


def write_tables_locked(cells: list[Cell], output: Path, metrics: list[str], published: dict[str, Published]) -> None:
    """Write the tables. Of several processes the last one has seen what all have finished."""
    with explain_write_errors(output, "give another --output"):
        output.mkdir(parents=True, exist_ok=True)
        lock = FileLock(output / "tables.lock").acquire()
    with lock:
        write_tables(cells, output, metrics, published)
