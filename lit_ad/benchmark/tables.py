"""Write the tables of a benchmark from its cells: results.md, .csv (a row for each cell), .json (everything) and .tex.

No value is guessed. A cell of a table has a value if a run has finished, and the mean over tasks has one if all tasks
of some seed have finished. Missing values are listed with the reason.
"""

import csv
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from tabulate import tabulate

from lit_ad.benchmark.false_alarms import describe_false_alarms
from lit_ad.benchmark.plan import FINISHED, Cell, Published
from lit_ad.benchmark.statistics import Comparison, compare, compute_auroc_interval
from lit_ad.counts import format_count
from lit_ad.evaluation.results import MEAN, POOLED, Results, Row, without_nan
from lit_ad.files import atomic_write
from lit_ad.names import open_table

ALL = "**mean**"  # name of the row of means: bold, so that it differs from a task called mean
_COST = ("seconds", "memory_mib", "gpu_memory_mib", "attempts", "device")


@dataclass
class Value:
    """A metric of a method, on a task or as the mean over tasks."""

    mean: float  # over seeds
    sd: float = math.nan  # standard deviation over seeds; NaN with one seed
    seeds: int = 1  # number of seeds
    low: float = math.nan  # ends of the 95 % interval over images
    high: float = math.nan


def write_tables(cells: list[Cell], output: Path, metrics: list[str], published: dict[str, Published]) -> None:
    """Write the four files from the finished cells of all processes."""
    states = {cell.name: cell.state() for cell in cells}  # read once, because another cell may end meanwhile
    finished = [cell for cell in cells if states[cell.name] == FINISHED]
    results = {cell.name: Results.load(cell.home / "metrics.json") for cell in finished}
    costs = {cell.name: cell.cost() for cell in finished}
    rows = {name: row_of(result) for name, result in results.items()}
    known = list(dict.fromkeys(key for row in rows.values() for key in row))
    parts = [key for key in known if key.startswith("image_auroc_") and not key.endswith(("_low", "_high", "_bound"))]
    shown = [*metrics, *(part for part in parts if part not in metrics)]
    summary = {metric: _summarise(cells, results, rows, metric) for metric in shown}
    comparisons = {metric: _compare_methods(cells, summary[metric]) for metric in shown}
    missing = {name: state for name, state in states.items() if state != FINISHED}
    for metric in metrics:  # only some methods have the other metrics
        for cell in finished:
            if math.isnan(rows[cell.name].get(metric, math.nan)):
                missing[f"{metric} of {cell.name}"] = "finished, but its test gave no value (see its log.txt)"
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
    false_alarms = describe_false_alarms(runs, *_list_methods_and_tasks(cells))
    with atomic_write(output / "results.md") as temporary:
        temporary.write_text(
            _write_markdown(cells, summary, comparisons, published, costs, missing, false_alarms),
            encoding="utf-8",
            errors="backslashreplace",
        )
    with atomic_write(output / "results.tex") as temporary:
        temporary.write_text(_write_latex(cells, summary, published), encoding="utf-8", errors="backslashreplace")


def row_of(result: Results) -> Row:
    """Return the metrics of a cell: over all images, or with several categories the mean over them.

    The metrics by a data set's own rules, if it has any, are named official_METRIC.
    """
    official = {} if result.official is None else result.official.last()
    own = {f"official_{name}": value for name, value in official.items()}
    return {**(result.rows.get(MEAN, {}) or result.rows[POOLED]), **own}


def _summarise(
    cells: list[Cell], results: dict[str, Results], rows: dict[str, Row], metric: str
) -> dict[str, dict[str, Value]]:
    """Return a metric by method and task, for the finished cells.

    The key ALL has the mean over tasks, if all tasks of some seed have finished.
    """
    methods, tasks = _list_methods_and_tasks(cells)
    summary: dict[str, dict[str, Value]] = {}
    for method in methods:
        seeds: dict[str, dict[int, float]] = {task: {} for task in tasks}
        for cell in cells:
            value = rows.get(cell.name, {}).get(metric, math.nan)
            if cell.method == method and not math.isnan(value):
                seeds[cell.task][cell.seed] = value
        summary[method] = {task: _average_seeds(list(by_seed.values())) for task, by_seed in seeds.items() if by_seed}
        complete = [seed for seed in seeds[tasks[0]] if all(seed in by_seed for by_seed in seeds.values())]
        if complete and len(tasks) > 1:
            summary[method][ALL] = _average_seeds(
                [fmean(by_seed[seed] for by_seed in seeds.values()) for seed in complete]
            )
        if metric == "image_auroc":
            for task in tasks:
                runs = [results[c.name] for c in cells if (c.method, c.task) == (method, task) and c.name in results]
                if task in summary[method] and all(MEAN not in run.rows for run in runs):
                    summary[method][task].low, summary[method][task].high = interval(runs)
    return summary


def interval(runs: list[Results]) -> tuple[float, float]:
    """Return the 95 % interval of the mean image AUROC of runs on the same images; NaN if their images differ."""
    labels = np.array([image.label for image in runs[0].images])
    paths = [image.path for image in runs[0].images]
    if any([image.path for image in run.images] != paths for run in runs):
        return math.nan, math.nan
    scores = np.array([[image.score for image in run.images] for run in runs], np.float64)
    return compute_auroc_interval(scores[:, labels == 0], scores[:, labels == 1])


def _average_seeds(values: list[float]) -> Value:
    """Return mean and standard deviation of the values of several seeds."""
    return Value(fmean(values), stdev(values) if len(values) > 1 else math.nan, len(values))


def _list_methods_and_tasks(cells: list[Cell]) -> tuple[list[str], list[str]]:
    """Return the methods and the tasks of the cells, in their order."""
    return list(dict.fromkeys(cell.method for cell in cells)), list(dict.fromkeys(cell.task for cell in cells))


def _compare_methods(cells: list[Cell], summary: dict[str, dict[str, Value]]) -> Comparison | None:
    """Compare the methods that have a value, on the tasks for which all of these have one."""
    _, tasks = _list_methods_and_tasks(cells)
    present = {method: by_task for method, by_task in summary.items() if by_task}
    shared = [task for task in tasks if all(task in by_task for by_task in present.values())]
    return compare(shared, {method: [by_task[task].mean for task in shared] for method, by_task in present.items()})


def _format_value(value: Value | None) -> str:
    """Return the text of a value in a table; "" for None."""
    if value is None:
        return ""
    sd = "" if math.isnan(value.sd) else f" ± {value.sd:.3f}"
    return f"{value.mean:.3f}{sd}" + ("" if math.isnan(value.low) else f" [{value.low:.3f}, {value.high:.3f}]")


def _make_grid(
    cells: list[Cell], summary: dict[str, dict[str, Value]], published: dict[str, Published], metric: str
) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the rows of a metric's table.

    It has a row for each task and one for the mean, and a column for each method. A method with published figures has a
    second column for them.
    """
    methods, tasks = _list_methods_and_tasks(cells)
    ends = [ALL] if len(tasks) > 1 else []
    headings, columns = ["task"], [[*tasks, *ends]]
    for method in methods:
        headings.append(method)
        columns.append([_format_value(summary[method].get(task)) for task in (*tasks, *ends)])
        figures = [published.get(method, {}).get(task.strip("*"), {}).get(metric) for task in (*tasks, *ends)]
        if any(value is not None for value in figures):
            headings.append(f"{method}, published")
            columns.append(["" if value is None else f"{value:.3f}" for value in figures])
    return headings, [list(row) for row in zip(*columns, strict=True)]


def _write_markdown(
    cells: list[Cell],
    summary: dict[str, dict[str, dict[str, Value]]],
    comparisons: dict[str, Comparison | None],
    published: dict[str, Published],
    costs: dict[str, dict[str, Any]],
    missing: dict[str, str],
    false_alarms: tuple[str, list[list[str]]],
) -> str:
    methods, tasks = _list_methods_and_tasks(cells)
    lines = [
        "Mean ± standard deviation over seeds. [Low, high]: 95 % interval of image AUROC over images, by bootstrap.",
        "The mean over tasks is given if all tasks of a seed have finished. If a field is empty, the section Missing "
        "at the end of this file says why.",
        *(f"Published, {method}: {entry['source']}." for method, entry in published.items() if entry.get("source")),
    ]
    for metric, by_method in summary.items():
        if any(by_method.values()):
            headings, rows = _make_grid(cells, by_method, published, metric)
            lines += ["", f"## {metric}", "", _format_table(headings, rows)]
            comparison = comparisons[metric]
            lines += ["", *_describe_comparison(comparison)] if comparison else []
    if false_alarms[1]:
        lines += ["", "## False alarms", "", false_alarms[0], "", _format_table(["task", *methods], false_alarms[1])]
    spent: dict[tuple[str, str], list[dict[str, Any]]] = {(method, task): [] for method in methods for task in tasks}
    for cell in cells:
        spent[cell.method, cell.task] += [costs[cell.name]] if cell.name in costs else []
    took = [[task, *(_describe_cost(spent[method, task]) for method in methods)] for task in tasks]
    lines += ["", "## Minutes and peak memory of a cell", "", _format_table(["task", *methods], took)]
    if missing:
        lines += ["", "## Missing", "", *(f"- {name}: {why}" for name, why in missing.items())]
    return "\n".join(lines) + "\n"


def _describe_comparison(comparison: Comparison) -> list[str]:
    """Return the lines of the comparison over tasks, in Markdown."""
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
        _format_table(["difference of", "mean", "p (Wilcoxon)", "p (Holm)"], pairs),
    ]


def _describe_cost(costs: list[dict[str, Any]]) -> str:
    """Return mean minutes and highest peak memory of the finished seeds; "" without any."""
    if not costs:
        return ""
    parts = [f"{fmean(cost['seconds'] for cost in costs) / 60:.1f} min"]
    for key, place in (("memory_mib", ""), ("gpu_memory_mib", " of GPU")):
        known = [cost[key] for cost in costs if cost.get(key) is not None]
        parts += [f"{max(known) / 1024:.1f} GiB{place}"] if known else []
    return ", ".join(parts)


def _format_table(headings: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    return tabulate(rows, headings, tablefmt="pipe", disable_numparse=True)


def _write_latex(
    cells: list[Cell], summary: dict[str, dict[str, dict[str, Value]]], published: dict[str, Published]
) -> str:
    """Return the text of results.tex: a tabular for each metric, in the style of booktabs."""
    parts = []
    for metric, by_method in summary.items():
        if any(by_method.values()):
            headings, rows = _make_grid(cells, by_method, published, metric)
            plain = [[row[0].strip("*"), *row[1:]] for row in rows]
            text = tabulate(plain, headings, tablefmt="latex_booktabs", disable_numparse=True)
            parts.append(f"% {metric}\n" + text.replace("±", "$\\pm$"))
    return "\n\n".join(parts) + "\n"
