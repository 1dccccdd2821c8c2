"""The tables of a benchmark, from its cells: results.md, .csv (a row each cell), .json (everything) and .tex.

Nothing is filled in: a value stands where its cell is finished, a mean over tasks where some seed has all of them, and
what is missing is listed with the reason.
"""

import csv
import json
import math
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from tabulate import tabulate

from lit_ad.benchmark.cell import is_finished
from lit_ad.benchmark.false_alarms import describe_false_alarms
from lit_ad.benchmark.statistics import Comparison, auroc_interval, compare
from lit_ad.counts import format_count
from lit_ad.evaluation.results import MEAN, POOLED, Results, Row, without_nan
from lit_ad.files import atomic_write
from lit_ad.names import open_table

Published = dict[str, Any]  # source: who says so, mean: {metric: value}, TASK: {metric: value}
_FINISHED = "finished"
ALL = "**mean**"  # a task may be called mean, too: a bold one is none
_COST = ("seconds", "memory_mib", "gpu_memory_mib", "attempts", "device")


@dataclass
class Cell:
    """A method, a task, a seed, and the directory of their run."""

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

    def state(self) -> str:
        """In words: finished, or why not."""
        if self.finished:
            return _FINISHED
        with suppress(FileNotFoundError):  # of most; or another process begins it again just now
            return f"died, {(self.home / 'died.txt').read_text(encoding='utf-8').strip()} (see {self.home / 'log.txt'})"
        if (self.home / "checkpoints" / "last.ckpt").is_file():
            return "begun, not finished"
        return "not finished" if (self.home / "log.txt").is_file() else "not begun"

    def cost(self) -> dict[str, Any]:
        """What it took, once it is finished."""
        cost: dict[str, Any] = json.loads((self.home / "cost.json").read_text(encoding="utf-8"))
        return cost


@dataclass
class Value:
    """A metric of a method on a task, or its mean over tasks: over seeds, with an interval over images."""

    mean: float
    sd: float = math.nan  # of one seed: none
    seeds: int = 1
    low: float = math.nan
    high: float = math.nan


def write_tables(cells: list[Cell], output: Path, metrics: list[str], published: dict[str, Published]) -> None:
    """Write the four files from the cells that are finished, by any process."""
    states = {cell.name: cell.state() for cell in cells}  # asked once: another cell may end while these are written
    finished = [cell for cell in cells if states[cell.name] == _FINISHED]
    results = {cell.name: Results.load(cell.home / "metrics.json") for cell in finished}
    costs = {cell.name: cell.cost() for cell in finished}
    rows = {name: row_of(result) for name, result in results.items()}
    known = list(dict.fromkeys(key for row in rows.values() for key in row))
    parts = [key for key in known if key.startswith("image_auroc_") and not key.endswith(("_low", "_high", "_bound"))]
    shown = [*metrics, *(part for part in parts if part not in metrics)]
    summary = {metric: _summarise(cells, results, rows, metric) for metric in shown}
    comparisons = {metric: _compare_methods(cells, summary[metric]) for metric in shown}
    missing = {name: state for name, state in states.items() if state != _FINISHED}
    for metric in metrics:  # the others are of methods that have such parts
        for cell in finished:
            if math.isnan(rows[cell.name].get(metric, math.nan)):
                missing[f"{metric} of {cell.name}"] = "finished, but its test gave no such number (see its log.txt)"
    report = {
        "cells": [
            {"method": cell.method, "task": cell.task, "seed": cell.seed, "state": states[cell.name]}
            | {**costs.get(cell.name, {}), "metrics": rows.get(cell.name, {})}
            for cell in cells
        ],
        "tasks": {
            metric: {
                method: {t: asdict(v) for t, v in by_task.items() if t != ALL} for method, by_task in by_method.items()
            }
            for metric, by_method in summary.items()
        },
        "mean": {
            metric: {method: asdict(by_task[ALL]) for method, by_task in by_method.items() if ALL in by_task}
            for metric, by_method in summary.items()
        },
        "published": published,
        "comparison": {metric: asdict(comparison) for metric, comparison in comparisons.items() if comparison},
        "missing": missing,
    }
    with atomic_write(output / "results.json") as temporary:
        temporary.write_text(json.dumps(without_nan(report), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with atomic_write(output / "results.csv") as temporary, open_table(temporary) as file:
        table = csv.writer(file)
        table.writerow(["method", "task", "seed", "state", *_COST, *known])
        for cell in cells:
            row, cost = rows.get(cell.name, {}), costs.get(cell.name, {})
            numbers = [row[key] if key in row and not math.isnan(row[key]) else "" for key in known]
            took = [cost.get(key) if cost.get(key) is not None else "" for key in _COST]
            table.writerow([cell.method, cell.task, cell.seed, states[cell.name], *took, *numbers])
    runs = [(cell.method, cell.task, results[cell.name], rows[cell.name]) for cell in finished]
    false_alarms = describe_false_alarms(runs, *_in_order(cells))
    with atomic_write(output / "results.md") as temporary:
        temporary.write_text(
            markdown(cells, summary, comparisons, published, costs, missing, false_alarms),
            encoding="utf-8",
            errors="backslashreplace",
        )
    with atomic_write(output / "results.tex") as temporary:
        temporary.write_text(latex(cells, summary, published), encoding="utf-8", errors="backslashreplace")


def row_of(result: Results) -> Row:
    """A cell's metrics: of all its images, or of several categories the mean of theirs; and as official_METRIC those by
    the rules of its data set, if it has its own."""
    official = {} if result.official is None else result.official.last()
    own = {f"official_{name}": value for name, value in official.items()}
    return {**(result.rows.get(MEAN, {}) or result.rows[POOLED]), **own}


def _summarise(
    cells: list[Cell], results: dict[str, Results], rows: dict[str, Row], metric: str
) -> dict[str, dict[str, Value]]:
    """The metric of each method on each task, as far as there are finished cells, and the mean over tasks, where there
    is a seed with all of them."""
    methods, tasks = _in_order(cells)
    summary: dict[str, dict[str, Value]] = {}
    for method in methods:
        seeds: dict[str, dict[int, float]] = {task: {} for task in tasks}
        for cell in cells:
            value = rows.get(cell.name, {}).get(metric, math.nan)
            if cell.method == method and not math.isnan(value):
                seeds[cell.task][cell.seed] = value
        summary[method] = {task: _over_seeds(list(by_seed.values())) for task, by_seed in seeds.items() if by_seed}
        complete = [seed for seed in seeds[tasks[0]] if all(seed in by_seed for by_seed in seeds.values())]
        if complete and len(tasks) > 1:
            summary[method][ALL] = _over_seeds(
                [fmean(by_seed[seed] for by_seed in seeds.values()) for seed in complete]
            )
        if metric == "image_auroc":
            for task in tasks:
                runs = [results[c.name] for c in cells if (c.method, c.task) == (method, task) and c.name in results]
                if task in summary[method] and all(MEAN not in run.rows for run in runs):
                    summary[method][task].low, summary[method][task].high = interval(runs)
    return summary


def interval(runs: list[Results]) -> tuple[float, float]:
    """Of the mean image AUROC of runs on the same images; nan where the images differ."""
    labels = np.array([image.label for image in runs[0].images])
    paths = [image.path for image in runs[0].images]
    if any([image.path for image in run.images] != paths for run in runs):
        return math.nan, math.nan
    scores = np.array([[image.score for image in run.images] for run in runs], np.float64)
    return auroc_interval(scores[:, labels == 0], scores[:, labels == 1])


def _over_seeds(values: list[float]) -> Value:
    return Value(fmean(values), stdev(values) if len(values) > 1 else math.nan, len(values))


def _in_order(cells: list[Cell]) -> tuple[list[str], list[str]]:
    """Methods and tasks."""
    return list(dict.fromkeys(cell.method for cell in cells)), list(dict.fromkeys(cell.task for cell in cells))


def _compare_methods(cells: list[Cell], summary: dict[str, dict[str, Value]]) -> Comparison | None:
    """The methods that have any value, on the tasks that all of these have."""
    _, tasks = _in_order(cells)
    there = {method: by_task for method, by_task in summary.items() if by_task}
    shared = [task for task in tasks if all(task in by_task for by_task in there.values())]
    return compare(shared, {method: [by_task[task].mean for task in shared] for method, by_task in there.items()})


def _in_table(value: Value | None) -> str:
    """As a cell of a table; "" of nothing."""
    if value is None:
        return ""
    sd = "" if math.isnan(value.sd) else f" ± {value.sd:.3f}"
    return f"{value.mean:.3f}{sd}" + ("" if math.isnan(value.low) else f" [{value.low:.3f}, {value.high:.3f}]")


def grid(
    cells: list[Cell], summary: dict[str, dict[str, Value]], published: dict[str, Published], metric: str
) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: a task each and the mean, a column for each method, and beside it the published numbers."""
    methods, tasks = _in_order(cells)
    ends = [ALL] if len(tasks) > 1 else []
    headings, columns = ["task"], [[*tasks, *ends]]
    for method in methods:
        headings.append(method)
        columns.append([_in_table(summary[method].get(task)) for task in (*tasks, *ends)])
        figures = [published.get(method, {}).get(task.strip("*"), {}).get(metric) for task in (*tasks, *ends)]
        if any(value is not None for value in figures):
            headings.append(f"{method}, published")
            columns.append(["" if value is None else f"{value:.3f}" for value in figures])
    return headings, [list(row) for row in zip(*columns, strict=True)]


def markdown(
    cells: list[Cell],
    summary: dict[str, dict[str, dict[str, Value]]],
    comparisons: dict[str, Comparison | None],
    published: dict[str, Published],
    costs: dict[str, dict[str, Any]],
    missing: dict[str, str],
    false_alarms: tuple[str, list[list[str]]],
) -> str:
    methods, tasks = _in_order(cells)
    lines = [
        "Mean ± standard deviation over seeds. [Low, high]: 95 % interval over images, by bootstrap, of image AUROC. A",
        "mean over tasks stands where a seed has all of them. Why a cell is empty is said at the end.",
        *(f"Published, {method}: {entry['source']}." for method, entry in published.items() if entry.get("source")),
    ]
    for metric, by_method in summary.items():
        if any(by_method.values()):
            headings, rows = grid(cells, by_method, published, metric)
            lines += ["", f"## {metric}", "", _pipes(headings, rows)]
            comparison = comparisons[metric]
            lines += ["", *compared(comparison)] if comparison else []
    if false_alarms[1]:
        lines += ["", "## False alarms", "", false_alarms[0], "", _pipes(["task", *methods], false_alarms[1])]
    spent: dict[tuple[str, str], list[dict[str, Any]]] = {(method, task): [] for method in methods for task in tasks}
    for cell in cells:
        spent[cell.method, cell.task] += [costs[cell.name]] if cell.name in costs else []
    took = [[task, *(_cost_of(spent[method, task]) for method in methods)] for task in tasks]
    lines += ["", "## Minutes and peak memory of a cell", "", _pipes(["task", *methods], took)]
    if missing:
        lines += ["", "## Missing", "", *(f"- {name}: {why}" for name, why in missing.items())]
    return "\n".join(lines) + "\n"


def compared(comparison: Comparison) -> list[str]:
    """The comparison over tasks, in Markdown."""
    ranks = sorted(comparison.ranks.items(), key=lambda item: item[1])
    ordered = ", ".join(f"{name} {rank:.2f}" for name, rank in ranks)
    friedman = "" if math.isnan(comparison.friedman_p) else f" Friedman's p {comparison.friedman_p:.3g}."
    pairs = [
        [f"{p.first} - {p.second}", f"{p.difference:+.3f}", f"{p.p:.3g}", f"{p.p_holm:.3g}"] for p in comparison.pairs
    ]
    return [
        f"Average rank over {format_count(len(comparison.tasks), 'task')}: {ordered}. "
        f"Critical difference {comparison.critical_difference:.2f} (Nemenyi, 0.05).{friedman}",
        "",
        _pipes(["difference of", "mean", "p (Wilcoxon)", "p (Holm)"], pairs),
    ]


def _cost_of(costs: list[dict[str, Any]]) -> str:
    """Mean minutes and most memory of the finished seeds; "" of none."""
    if not costs:
        return ""
    parts = [f"{fmean(cost['seconds'] for cost in costs) / 60:.1f} min"]
    for key, place in (("memory_mib", ""), ("gpu_memory_mib", " of GPU")):
        known = [cost[key] for cost in costs if cost.get(key) is not None]
        parts += [f"{max(known) / 1024:.1f} GiB{place}"] if known else []
    return ", ".join(parts)


def _pipes(headings: list[str], rows: list[list[str]]) -> str:
    return tabulate(rows, headings, tablefmt="pipe", disable_numparse=True)


def latex(cells: list[Cell], summary: dict[str, dict[str, dict[str, Value]]], published: dict[str, Published]) -> str:
    """A tabular of each metric, for booktabs."""
    parts = []
    for metric, by_method in summary.items():
        if any(by_method.values()):
            headings, rows = grid(cells, by_method, published, metric)
            plain = [[row[0].strip("*"), *row[1:]] for row in rows]
            text = tabulate(plain, headings, tablefmt="latex_booktabs", disable_numparse=True)
            parts.append(f"% {metric}\n" + text.replace("±", "$\\pm$"))
    return "\n\n".join(parts) + "\n"
