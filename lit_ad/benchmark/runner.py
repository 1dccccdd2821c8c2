"""`lit-ad benchmark --config FILE`: methods x tasks x seeds, and the tables of them.

A cell is one `lit-ad fit` and test in a process of its own, in OUTPUT/METHOD/TASK/seed-N. What is finished is not done
again: the same command goes on where it was interrupted. A cell that dies does not stop the others; the next command
tries it again. What follows `--` is given to every `lit-ad fit`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock
from jsonargparse import ArgumentParser

from lit_ad.benchmark.cell import BUSY
from lit_ad.benchmark.tables import Cell, Published, write_tables
from lit_ad.data.sources.source import Source
from lit_ad.errors import UserError
from lit_ad.files import atomic_write
from lit_ad.machine import cores

STOP = (signal.SIGTERM, signal.SIGINT)


@dataclass
class Compared:
    """A method of a benchmark.

    Args:
        config: Its configuration, as for `lit-ad fit`; its data.source is replaced.
        arguments: More for each of its runs, such as --model.weights=FILE.
        published: Numbers to print beside ours: {source: who says so, mean: {image_auroc: ...}, TASK: {...}}.
    """

    config: Path
    arguments: list[str] = field(default_factory=list)
    published: Published = field(default_factory=dict)


@dataclass
class Budget:
    """What every cell may have.

    Args:
        minutes: Of training, validations included, at most; a method that is through its epochs before ends before.
        processor_minutes: The same in processor time, on which others' work on the machine has no influence. What GPUs
            do is not in it.
        epochs: Instead of the configuration's.
    """

    minutes: float | None = None
    processor_minutes: float | None = None
    epochs: int | None = None


def benchmark(
    cells: list[Cell], output: Path, metrics: list[str], published: dict[str, Published], jobs: int, share: list[int]
) -> None:
    """Do the cells of a share that are not done, `jobs` at a time, and write the tables after each.

    Raises:
        UserError: Cells died.
    """
    places = environments(jobs)
    waiting = [cell for number, cell in enumerate(cells) if number in share and not cell.finished]
    free, running = list(range(len(places))), dict[int, tuple[Cell, subprocess.Popen[bytes]]]()
    done = len(share) - len(waiting)
    write(cells, output, metrics, published)
    print(f"{len(cells)} cells, {len(share)} of them here, {done} of these finished already", flush=True)
    try:
        while waiting or running:
            while waiting and free:
                place, cell = free.pop(0), waiting.pop(0)
                print(f"{cell.name}: begins", flush=True)
                running[place] = (cell, start(cell, places[place]))
            for place, (cell, process) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[place]
                free.append(place)
                settle(cell, process.returncode)
                write(cells, output, metrics, published)
                print(f"{cell.name}: {cell.state()}", flush=True)
            time.sleep(0.1)
    finally:  # a signal to this process ends the cells too, each with a checkpoint
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()
    print(f"The tables are in {output}: results.md, .csv, .json and .tex")
    unfinished = [cells[number] for number in share if not cells[number].finished]
    dead = [cell for cell in unfinished if (cell.home / "died.txt").is_file()]
    left = ", ".join(cell.name for cell in unfinished if cell not in dead)
    if left:
        print(f"Not finished, since another process has them or ended them: {left}")
    if dead:
        said = "; ".join(f"{cell.name} {cell.state()}" for cell in dead)
        raise UserError(f"{len(dead)} of {len(share)} cells died, the same command tries them again: {said}")


def environments(jobs: int) -> list[dict[str, str]]:
    """The environment of each place that a cell may run at: a GPU of its own in turn, or a share of the cores."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    places = []
    for place in range(jobs):
        given = {"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} if gpus else {}
        if jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
            given["OMP_NUM_THREADS"] = str(max(1, cores() // jobs))
        places.append({**os.environ, **given})
    return places


def start(cell: Cell, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Begin a cell, or go on with it. What it prints is in HOME/log.txt, unbuffered: an error is the last line."""
    (cell.home / "died.txt").unlink(missing_ok=True)
    arguments = ["--config", str(cell.home / "cell.yaml"), "--trainer.default_root_dir", str(cell.home.absolute())]
    command = [sys.executable, "-m", "lit_ad.benchmark.cell", str(cell.home.absolute()), str(os.getpid())]
    unbuffered = {**environment, "PYTHONUNBUFFERED": "1"}
    with (cell.home / "log.txt").open("ab") as log:
        return subprocess.Popen([*command, *arguments, *cell.arguments], env=unbuffered, stdout=log, stderr=log)


def settle(cell: Cell, code: int) -> None:
    """Write down why a cell died, if it did. One that another process has, or that was asked to stop, did not."""
    if cell.finished or code in (BUSY, 128 + signal.SIGTERM, -signal.SIGTERM):
        return
    lines = (cell.home / "log.txt").read_text(errors="replace").strip().splitlines()
    last = lines[-1].strip() if lines else "nothing printed"
    with atomic_write(cell.home / "died.txt") as temporary:
        temporary.write_text(f"exit code {code}: {last}\n")


def write(cells: list[Cell], output: Path, metrics: list[str], published: dict[str, Published]) -> None:
    """Write the tables. Of several processes the last one has seen what all have finished."""
    output.mkdir(parents=True, exist_ok=True)
    with FileLock(output / "tables.lock"):
        write_tables(cells, output, metrics, published)


def tasks_of(sources: dict[str, tuple[dict[str, Any], Source]]) -> dict[str, dict[str, Any]]:
    """The source of each task, as a configuration: of one source TASK, of several SOURCE/TASK, or SOURCE where it is
    one task."""
    found: dict[str, dict[str, Any]] = {}
    for name, (said, source) in sources.items():
        source.prepare()
        tasks = source.tasks()
        for task, arguments in tasks.items():
            title = task if len(sources) == 1 else name if len(tasks) == 1 else f"{name}/{task}"
            found[title] = {**said, "init_args": {**(said.get("init_args") or {}), **arguments}}
    return found


def make_cell(
    output: Path, method: str, compared: Compared, task: str, source: dict[str, Any], seed: int, budget: Budget
) -> Cell:
    """A cell and its HOME/cell.yaml. Raises UserError if its directory holds results of other settings."""
    config = yaml.safe_load(compared.config.read_text())
    data, trainer = config.setdefault("data", {}), config.setdefault("trainer", {})
    data["source"], config["seed_everything"] = source, seed
    trainer["enable_progress_bar"] = False
    if budget.epochs is not None:
        trainer |= {"max_epochs": budget.epochs, "max_steps": -1}
    if budget.minutes is not None:
        trainer["max_time"] = {"seconds": round(60 * budget.minutes)}
    if budget.processor_minutes is not None:
        limit = {
            "class_path": "lit_ad.benchmark.budget.ProcessorTime",
            "init_args": {"minutes": budget.processor_minutes},
        }
        trainer["callbacks"] = [*(trainer.get("callbacks") or []), limit]
    cell = Cell(output / method / task / f"seed-{seed}", method, task, seed, compared.arguments)
    asked, record = {"arguments": compared.arguments, "config": config}, cell.home / "asked.json"
    if record.is_file():
        earlier = json.loads(record.read_text())
        if earlier != json.loads(json.dumps(asked)):
            raise UserError(
                f"{cell.home} holds a run of other settings than {compared.config} and the benchmark ask for now: give "
                "another --output, or remove it"
            )
        return cell
    for name, text in (("cell.yaml", yaml.safe_dump(config, sort_keys=False)), ("asked.json", json.dumps(asked))):
        with atomic_write(cell.home / name) as temporary:
            temporary.write_text(text)
    return cell


def chosen(cells: list[tuple[str, str]], only: list[str]) -> set[tuple[str, str]]:
    """The (method, task) pairs that are named, each by its method, its task, or both; all where none is.

    Raises:
        UserError: A name is neither.
    """
    methods, tasks = {method for method, _ in cells}, {task for _, task in cells}
    names = {name: {name} if name in tasks else {task for task in tasks if name in task.split("/")} for name in only}
    unknown = [name for name in only if name not in methods and not names[name]]
    if unknown:
        raise UserError(f"no {', '.join(unknown)}: there are {', '.join(sorted(methods))}; {', '.join(sorted(tasks))}")
    wanted_methods = {name for name in only if name in methods} or methods
    wanted_tasks = {task for name in only if name not in methods for task in names[name]} or tasks
    return {(method, task) for method, task in cells if method in wanted_methods and task in wanted_tasks}


def main(args: list[str]) -> None:
    """The command, given what follows `lit-ad benchmark`."""
    own, passed = (args[: args.index("--")], args[args.index("--") + 1 :]) if "--" in args else (args, [])
    parser = ArgumentParser(prog="lit-ad benchmark", description=__doc__)
    parser.add_argument("--config", action="config", help="A YAML file of these arguments.")
    parser.add_argument("--methods", type=dict[str, Compared], required=True, help="By name: config, arguments.")
    parser.add_argument("--sources", type=dict[str, Source], required=True, help="By name; each is split into tasks.")
    parser.add_argument("--output", type=Path, required=True, help="Where the runs and the tables go.")
    parser.add_argument("--seeds", type=list[int], default=[0])
    parser.add_argument(
        "--budget", type=Budget, default=Budget(), help="Of each cell: minutes, processor_minutes, or epochs."
    )
    parser.add_argument("--metrics", type=list[str], default=["image_auroc", "pixel_auroc", "aupro_30"])
    parser.add_argument("--arguments", type=list[str], default=[], help="For each fit, as what follows --.")
    parser.add_argument("--only", type=list[str], default=[], help="Names of methods and tasks; all if none.")
    parser.add_argument("--jobs", type=int, default=1, help="Cells at a time, each with a GPU of its own in turn.")
    parser.add_argument("--index", type=int, default=0, help="Which share of the cells this process does, from 0.")
    parser.add_argument("--of", type=int, default=1, help="How many shares there are: an array of jobs.")
    given = parser.parse_args(own)
    if not 0 <= given.index < given.of:
        raise UserError(f"index must lie in 0 to {given.of - 1}, not {given.index}")
    if given.jobs < 1 or not given.seeds:
        raise UserError("jobs must be 1 or more, and seeds not be empty")
    made = parser.instantiate_classes(given)
    said = {name: source.as_dict() for name, source in given.sources.items()}
    plain = json.loads(json.dumps(said, default=str))
    sources = tasks_of({name: (plain[name], made.sources[name]) for name in plain})
    wanted = chosen([(method, task) for method in made.methods for task in sources], given.only)
    cells, share = [], []
    for seed in given.seeds:  # the first seed of everything first
        for task, source in sources.items():
            for method, compared in made.methods.items():
                more = Compared(compared.config, [*given.arguments, *compared.arguments, *passed], compared.published)
                cells.append(make_cell(given.output, method, more, task, source, seed, made.budget))
                share += [len(cells) - 1] if (method, task) in wanted else []
    for number in STOP:
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    published = {method: compared.published for method, compared in made.methods.items()}
    benchmark(cells, given.output, given.metrics, published, given.jobs, share[given.index :: given.of])
