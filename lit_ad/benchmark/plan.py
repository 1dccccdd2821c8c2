"""The plan of a benchmark: its methods, its tasks, and a cell for each method, task and seed."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from filelock import FileLock, Timeout

from lit_ad.benchmark.cell import is_finished, read_record
from lit_ad.data.sources.from_config import make_source
from lit_ad.data.sources.listing import os_errors_as_user_errors
from lit_ad.errors import UserError, check_number
from lit_ad.files import atomic_write

KeptCheckpoints = Literal["all", "best", "none"]
Published = dict[str, Any]  # source: who says so, mean: {metric: value}, TASK: {metric: value}
FINISHED = "finished"
# The largest number of folds for shots. 2, 4, 8 or 16 images divide into folds of equal size, and equal folds give a
# stronger guarantee.
_MOST_FOLDS = 4


@dataclass
class Cell:
    """A cell of a benchmark: a method, a task, a seed, and the directory of their run."""

    home: Path
    method: str
    task: str
    seed: int
    arguments: list[str]

    @property
    def name(self) -> str:
        return f"{self.method}/{self.task}/seed-{self.seed}"

    @property
    def finished(self) -> bool:
        return is_finished(self.home)

    @property
    def empty(self) -> bool:
        """Whether the cell has trained nothing yet, for example because a setting was wrong, and no process runs it."""
        try:
            with FileLock(self.home / "cell.lock", timeout=0):
                return not any((self.home / name).exists() for name in ("checkpoints", "folds", "metrics.json"))
        except Timeout:
            return False

    def remove_checkpoints(self, kept: KeptCheckpoints) -> None:
        """Remove the checkpoints of a finished cell that `kept` does not name: they may fill a disk."""
        best, last = (self.home / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
        if kept == "none" or (kept == "best" and best.is_file()):
            last.unlink(missing_ok=True)
        if kept == "none":
            best.unlink(missing_ok=True)

    def state(self) -> str:
        """Return "finished", or why the cell is not."""
        if self.finished:
            return FINISHED
        with suppress(FileNotFoundError):  # the cell did not die, or another process has just started it again
            return f"died, {(self.home / 'died.txt').read_text(encoding='utf-8').strip()} (see {self.home / 'log.txt'})"
        if (self.home / "checkpoints" / "last.ckpt").is_file():
            return "started, not finished"
        return "not finished" if (self.home / "log.txt").is_file() else "not started"

    def cost(self) -> dict[str, Any]:
        """Read HOME/cost.json: time and memory of a finished cell."""
        return read_record(self.home / "cost.json")


@dataclass(frozen=True)
class MethodSpec:
    """A method of a benchmark.

    Args:
        config: A config file as for `lit-ad fit`, or the name of a shipped one. Its data.source is replaced.
        arguments: More arguments for each of its runs, such as --model.weights=FILE.
        published: Published figures to print beside ours: {source: WHO, mean: {image_auroc: ...}, TASK: {...}}.
    """

    config: str
    arguments: list[str] = field(default_factory=list)
    published: Published = field(default_factory=dict)


@dataclass(frozen=True)
class Budget:
    """The limit of each cell's training.

    Args:
        minutes: Minutes of training at most, with validations. A method that finishes its epochs earlier ends earlier.
        processor_minutes: Minutes of processor time at most. Other work on the machine does not change the result. Work
            of GPUs does not count.
        epochs: Number of epochs, in place of the config's.
    """

    minutes: float | None = None
    processor_minutes: float | None = None
    epochs: int | None = None

    def check(self) -> None:
        """Raise UserError if a limit is not above 0."""
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise UserError(f"budget.{name} is {value}, but it must be above 0")


@dataclass(frozen=True)
class Task:
    """The data of a cell.

    Args:
        source: The source of images, as class_path and init_args.
        shots: Number of nominal images of each category, which the cell's seed draws. All of them are used for
            training. None: all images, split as the method's config says.
        folds: Number of folds of the shots that set the threshold. None: the data set's own validation images set it;
            without any, shots set no threshold.
    """

    source: dict[str, Any]
    shots: int | None = None
    folds: int | None = None


def list_tasks(sources: dict[str, dict[str, Any]]) -> dict[str, Task]:
    """Return the tasks of the sources by name.

    With a single source, the names are TASK. With several sources they are SOURCE/TASK, or SOURCE for a source with one
    task.

    Raises:
        UserError: A value describes no source.
    """
    named: dict[str, Task] = {}
    for name, given in sources.items():
        source, config = make_source(given, f"sources.{name}")
        source.prepare()
        tasks = source.tasks()
        for task, arguments in tasks.items():
            title = task if len(sources) == 1 else name if len(tasks) == 1 else f"{name}/{task}"
            named[title] = Task({**config, "init_args": {**(config.get("init_args") or {}), **arguments}})
    return named


def add_shots(tasks: dict[str, Task], shots: Sequence[int]) -> dict[str, Task]:
    """Return a task for each task and each number of shots, named like TASK/4-shot. Without shots, return the tasks.

    One image alone has no folds, and neither has a data set with validation images of its own.

    Raises:
        UserError: A number is below 1, or a source cannot be read.
    """
    for count in shots:
        check_number("shots", count, least=1)
    few = {}
    for name, task in tasks.items() if shots else ():
        with os_errors_as_user_errors():
            samples = make_source(task.source, f"the source of {name}")[0].samples()
        validates = any(sample.split == "validation" for sample in samples)
        for count in shots:
            folds = None if validates or count == 1 else min(count, _MOST_FOLDS)
            few[f"{name}/{count}-shot"] = Task(task.source, count, folds)
    return few or tasks


def make_cell(output: Path, method: str, spec: MethodSpec, name: str, task: Task, seed: int, budget: Budget) -> Cell:
    """Write a cell's files HOME/cell.yaml and HOME/asked.json, and return the cell.

    Raises:
        UserError: HOME holds results of other settings, or folds have a budget of time.
    """
    config = yaml.safe_load(Path(spec.config).read_text(encoding="utf-8"))
    data, trainer = config.setdefault("data", {}), config.setdefault("trainer", {})
    data["source"], config["seed_everything"] = task.source, seed
    if task.shots is not None:
        split = data.setdefault("split", {})
        split |= {"shots": task.shots, "seed": seed}
        if task.folds is None:
            split["val_fraction"] = 0
        else:
            config.setdefault("decision", {})["folds"] = task.folds
    trainer["enable_progress_bar"] = False
    clock = next((name for name in ("minutes", "processor_minutes") if getattr(budget, name) is not None), None)
    words = [word.partition("=")[0] for word in spec.arguments]
    if clock and (config.get("decision", {}).get("folds") or "--decision.folds" in words):
        raise UserError(
            f"With budget.{clock}, each training ends at a different step. Folds (decision.folds"
            f"{', used for shots' if task.shots else ''}) need trainings of equal length: give budget.epochs, or "
            "--trainer.max_steps as an argument"
        )
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
    cell = Cell(output / method / name / f"seed-{seed}", method, name, seed, spec.arguments)
    asked, record = {"arguments": spec.arguments, "config": config}, cell.home / "asked.json"
    if record.is_file():
        if read_record(record) == json.loads(json.dumps(asked)):
            return cell
        if not cell.empty:
            raise UserError(
                f"{cell.home} holds a run with other settings than {spec.config} and this benchmark: give another "
                "--output, or remove it"
            )
    for name, text in (("cell.yaml", yaml.safe_dump(config, sort_keys=False)), ("asked.json", json.dumps(asked))):
        with atomic_write(cell.home / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return cell


def select_cells(cells: list[tuple[str, str]], only: Sequence[str]) -> set[tuple[str, str]]:
    """Return the (method, task) pairs that match the names in `only`; all pairs if it is empty.

    Names of methods select methods, and names of tasks, or of a part such as SOURCE in SOURCE/TASK, select tasks.

    Raises:
        UserError: A name is neither a method nor a task.
    """
    methods, tasks = {method for method, _ in cells}, {task for _, task in cells}
    names = {name: {name} if name in tasks else {task for task in tasks if name in task.split("/")} for name in only}
    unknown = [name for name in only if name not in methods and not names[name]]
    if unknown:
        raise UserError(
            f"--only names no method or task {', '.join(unknown)}: the methods are {', '.join(sorted(methods))}, and "
            f"the tasks are {', '.join(sorted(tasks))}"
        )
    wanted_methods = {name for name in only if name in methods} or methods
    wanted_tasks = {task for name in only if name not in methods for task in names[name]} or tasks
    return {(method, task) for method, task in cells if method in wanted_methods and task in wanted_tasks}
