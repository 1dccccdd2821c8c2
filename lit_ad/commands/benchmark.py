"""`lit-ad benchmark`."""

import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from lit_ad.benchmark.metric_names import check_metrics
from lit_ad.benchmark.own_folder import list_sources, make_method_specs, save_config
from lit_ad.benchmark.plan import (
    Budget,
    KeptCheckpoints,
    MethodSpec,
    add_shots,
    list_tasks,
    make_cell,
    select_cells,
)
from lit_ad.benchmark.runner import run_cells
from lit_ad.errors import UserError, check_number
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
    checkpoints: KeptCheckpoints = "best",
    only: tuple[str, ...] = (),
    jobs: int = 1,
    index: int = 0,
    of: int = 1,
) -> None:
    """Train and test each method on each task with each seed, and write the tables of the results.

    Methods on a folder of your own need no file: lit-ad benchmark --root FOLDER --methods '[STFPM, Dinomaly]'
    --minutes 5. The command writes the file that would do the same: OUTPUT/benchmark.yaml.

    A cell is one method on one task with one seed: one `lit-ad fit` with its test, in a process of its own, in
    OUTPUT/METHOD/TASK/seed-N. The same command again continues an interrupted benchmark, and does not repeat finished
    cells. A cell that fails does not stop the others; the next command tries it again. Words after `--` are passed to
    every `lit-ad fit`.

    Args:
        passed: The words after `--`.
        methods: A list of methods of lit_ad or of config files; or a dict with a config, arguments and published
            figures for each name.
        root: A folder in the layout of MVTec AD, one category or several. It takes the place of sources.
        sources: For each name a class_path and init_args, as for data.source. Each source is split into tasks.
        minutes: Minutes of training of each cell; the same as budget.minutes.
        output: The folder for the runs and the tables. None: runs/benchmark/NAME, with the name of the root.
        seeds: The seeds; each method is trained on each task with each of them.
        shots: Numbers of nominal images of each category; each number makes a task of its own. The seed draws the
            images. All of them train the detector and set its threshold, in as many folds as there are images, at most
            4. A single image cannot set a threshold. Where a data set has validation images of its own, these set it.
            Empty: all images.
        budget: The limit of each cell: minutes, processor_minutes, or epochs.
        metrics: The metrics in the tables.
        arguments: Words for every `lit-ad fit`, like those after --.
        checkpoints: What a cell keeps when it has finished. "best": the checkpoint that was tested, for example for
            `lit-ad predict`. "all": also the last one, with which a training continues. "none": neither, which saves
            disk space.
        only: Names of methods and tasks to run. Empty: all.
        jobs: Number of cells that run at a time; each gets one of the GPUs in turn.
        index: The share of the cells that this process runs, from 0 to of - 1.
        of: The number of shares, for an array of jobs.

    Raises:
        UserError: An argument makes no sense, or the output cannot be written.
    """
    check_number("--of", of, least=1)
    for name, numbers in (("seeds", seeds), ("shots", shots)):
        if len(set(numbers)) < len(numbers):
            raise UserError(f"{name} has a number twice: {', '.join(map(str, numbers))}")
    if not 0 <= index < of:
        raise UserError(f"--index is {index}, but it must lie between 0 and {of - 1}, since --of is {of}")
    if jobs < 1 or not seeds:
        raise UserError("give --jobs of 1 or more, and at least one of --seeds")
    specs, given = make_method_specs(methods), list_sources(root, sources or {})
    if minutes is not None:
        budget = replace(budget, minutes=minutes)
    budget.check()
    check_metrics(metrics)
    if output is None and root is None:
        raise UserError("give --output FOLDER, for the runs and the tables")
    output = (output or Path("runs/benchmark", next(iter(given)))).absolute()
    check_writable(output, "--output")
    tasks = add_shots(list_tasks(given), shots)
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
        same |= {} if checkpoints == "best" else {"checkpoints": checkpoints}
        file = save_config(output, {**same, "arguments": [*arguments, *passed], "sources": given, "methods": specs})
        print(f"This does the same as lit-ad benchmark --config {file}:\n\n{file.read_text(encoding='utf-8')}")
    run_cells(cells, output, list(metrics), published, jobs, share[index::of], budget, checkpoints)
