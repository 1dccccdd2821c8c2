"""The false-alarm rates of a benchmark's decisions on the test images, beside the rate that was asked for."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean

from lit_ad.evaluation.promises import list_kept_rates
from lit_ad.evaluation.results import Results, Row

ABOUT = (
    "Nominal test images called anomalous / the rate in effect, which is the one asked for or, if higher, the lowest "
    "that the deciding images allow / anomalous images found, in %, mean over seeds."
)


def describe_false_alarms(
    runs: Iterable[tuple[str, str, Results, Row]], methods: Sequence[str], tasks: Sequence[str]
) -> tuple[str, list[list[str]]]:
    """Return a sentence about the rates, and a row for each task with a cell for each method.

    A task whose runs have no decision has no row.

    Args:
        runs: For each finished run: method, task, results, and the row of the results that the tables show.
        methods: The methods in the order of the cells.
        tasks: The tasks in the order of the rows.
    """
    decided: dict[tuple[str, str], list[tuple[Results, Row]]] = defaultdict(list)
    for method, task, run, row in runs:
        if compute_allowed_rate(run) is not None:
            decided[method, task].append((run, row))
    asked = sorted({run.false_alarm for of_pair in decided.values() for run, _ in of_pair if run.false_alarm})
    table = [[task, *(_describe_rates(decided.get((method, task), [])) for method in methods)] for task in tasks]
    rates = " and ".join(f"{100 * rate:g} %" for rate in asked)
    return f"{ABOUT} Asked for: {rates}.", [row for row in table if any(row[1:])]


def compute_allowed_rate(run: Results) -> float | None:
    """Return the rate in effect, averaged over categories: the one asked for or, if higher, the lowest allowed one.

    None if no threshold comes from a rate.
    """
    rates = list_kept_rates(run)
    return fmean(rates) if rates else None


def _describe_rates(runs: Sequence[tuple[Results, Row]]) -> str:
    """Return a cell such as "8.3 / 11.1 / 60.1"; "" without runs."""
    if not runs:
        return ""
    allowed = [rate for run, _ in runs if (rate := compute_allowed_rate(run)) is not None]
    values = [
        fmean(row["false_alarm_rate"] for _, row in runs),
        fmean(allowed),
        fmean(row["recall"] for _, row in runs),
    ]
    return " / ".join(f"{100 * value:.1f}" for value in values)
