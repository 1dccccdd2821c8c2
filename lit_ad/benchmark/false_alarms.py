"""The false-alarm rate that a benchmark's decisions reached, beside the one that was asked for."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean

from lit_ad.evaluation.results import Results, Row

ABOUT = (
    "False alarms of the nominal test images / the rate that the images which decide allow / anomalous images found, "
    "in %, the mean over seeds."
)


def describe_false_alarms(
    runs: Iterable[tuple[str, str, Results, Row]], methods: Sequence[str], tasks: Sequence[str]
) -> tuple[str, list[list[str]]]:
    """Return what the rates are of, and a row of each task, with a cell for each method; no row without decisions.

    Args:
        runs: Method, task, and the results of a finished run, with the row of them that the tables show.
        methods: In order.
        tasks: In order.
    """
    decided: dict[tuple[str, str], list[tuple[Results, Row]]] = defaultdict(list)
    for method, task, run, row in runs:
        if allowed_rate(run) is not None:
            decided[method, task].append((run, row))
    asked = sorted({run.false_alarm for of_pair in decided.values() for run, _ in of_pair if run.false_alarm})
    table = [[task, *(_describe_rates(decided.get((method, task), [])) for method in methods)] for task in tasks]
    rates = " and ".join(f"{100 * rate:g} %" for rate in asked)
    return f"{ABOUT} Asked for: {rates}.", [row for row in table if any(row[1:])]


def allowed_rate(run: Results) -> float | None:
    """Return the rate that the images which decided allow, the mean over categories; None without a threshold of a
    rate."""
    thresholds = [each for each in (run.decision or {}).get("thresholds", []) if not each["image"]["by_hand"]]
    of_categories = [each["kept_rate"] for each in thresholds if each["category"] is not None]
    rates = of_categories or [each["kept_rate"] for each in thresholds]
    return fmean(rates) if rates else None


def _describe_rates(runs: Sequence[tuple[Results, Row]]) -> str:
    """Return a cell: "8.3 / 11.1 / 60.1"; "" of no run."""
    if not runs:
        return ""
    allowed = [rate for run, _ in runs if (rate := allowed_rate(run)) is not None]
    values = [
        fmean(row["false_alarm_rate"] for _, row in runs),
        fmean(allowed),
        fmean(row["recall"] for _, row in runs),
    ]
    return " / ".join(f"{100 * value:.1f}" for value in values)
