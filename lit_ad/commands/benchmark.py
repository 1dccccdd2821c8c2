"""`lit-ad benchmark`."""

import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from lit_ad.benchmark.metric_names import check_metrics
from lit_ad.benchmark.own_folder import method_specs, save_config, sources_of
from lit_ad.benchmark.plan import Budget, MethodSpec, list_tasks, make_cell, select_cells, with_shots
from lit_ad.benchmark.runner import run_cells
from lit_ad.errors import UserError
from lit_ad.files import check_writable

STOP = (signal.SIGTERM, signal.SIGINT)


def benchmark(
    *passed: str,
    methods: dict[str, MethodSpec] | list[str],
    root: Path | None = None,
    sources: dict[str, dict[str, Any]] | None = None,
    minutes: float | None = None,
    output: Path | None = None,
    seeds: tuple[int, ...] = (0,),
    shots: tuple[int, ...] = (),
    budget: Budget = Budget(),
    metrics: tuple[str, ...] = ("image_auroc", "pixel_auroc", "aupro_30", "aupimo", "instance_recall"),
    arguments: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
    jobs: int = 1,
    index: int = 0,
    of: int = 1,
) -> None:
    """Train and test each method on each task with each seed, and write the tables of the results.

    Methods on a folder of your own need no file: lit-ad benchmark --root FOLDER --methods '[STFPM, Dinomaly]'
    --minutes 5. OUTPUT/benchmark.yaml is the file that it stands for.

    A cell is one `lit-ad fit` and test in a process of its own, in OUTPUT/METHOD/TASK/seed-N. A finished cell is not
    done again: the same command goes on where it was interrupted. A cell that dies does not stop the others; the next
    command tries it again. What follows `--` is given to every `lit-ad fit`.

    Args:
        passed: What follows `--`.
        methods: A list of methods of lit_ad or of config files; or by name: config, arguments, published.
        root: A folder in the layout of MVTec AD, one category or several, in place of sources.
        sources: By name: class_path and init_args, as for data.source; each is split into tasks.
        minutes: Of training of each cell; the same as budget.minutes.
        output: Where the runs and the tables go. None: runs/benchmark/NAME, of a root's name.
        seeds: Of each method on each task.
        shots: Numbers of nominal images of each category, each a task of its own. The seed draws them. All of them
            train and decide, by as many folds, at most 4; one image alone decides nothing. None: all images.
        budget: Of each cell: minutes, processor_minutes, or epochs.
        metrics: In the tables.
        arguments: For each fit, as what follows --.
        only: Names of methods and tasks; all if none.
        jobs: Cells at a time, each with a GPU of its own in turn.
        index: Which share of the cells this process does, from 0.
        of: How many shares there are: an array of jobs.
    """
    if not 0 <= index < of:
        raise UserError(f"index must lie in 0 to {of - 1}, not {index}")
    if jobs < 1 or not seeds:
        raise UserError("jobs must be 1 or more, and seeds not be empty")
    specs, given = method_specs(methods), sources_of(root, sources or {})
    if minutes is not None:
        budget = replace(budget, minutes=minutes)
    budget.check()
    check_metrics(metrics)
    if output is None and root is None:
        raise UserError("give --output FOLDER, where the runs and the tables go")
    output = (output or Path("runs/benchmark", next(iter(given)))).absolute()
    check_writable(output, "--output")
    tasks = with_shots(list_tasks(given), shots)
    selected = select_cells([(method, task) for method in specs for task in tasks], only)
    cells, share = [], []
    for seed in seeds:  # the first seed of all methods and tasks comes first
        for title, task in tasks.items():
            for name, method in specs.items():
                spec = replace(method, arguments=[*arguments, *method.arguments, *passed])
                cells.append(make_cell(output, name, spec, title, task, seed, budget))
                share += [len(cells) - 1] if (name, title) in selected else []
    for number in STOP:
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    published = {name: method.published for name, method in specs.items()}
    if root is not None:
        same = {"output": output, "seeds": seeds, "shots": shots, "budget": budget, "metrics": metrics, "only": only}
        file = save_config(output, {**same, "arguments": [*arguments, *passed], "sources": given, "methods": specs})
        print(f"The same as lit-ad benchmark --config {file}:\n\n{file.read_text(encoding='utf-8')}")
    run_cells(cells, output, list(metrics), published, jobs, share[index::of], budget)
