"""The table of metrics by shift: tests of one detector on test sets under different light (`lit-ad data shift`)."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_ad.evaluation.report.runs import Run
from lit_ad.evaluation.report.table import HEADINGS
from lit_ad.evaluation.results import MEAN, POOLED, VERDICTS, Results, Row, format_value


@dataclass(frozen=True)
class ShiftLine:
    """A line of the table: one test, in words."""

    run: str
    shift: str
    cells: list[tuple[str, str]]  # for each of HEADINGS the value, and the difference to the unshifted test


def list_shifts(runs: list[Run]) -> list[ShiftLine]:
    """Return a line for each test, or none if no test was shifted.

    Tests of one checkpoint follow one another, the weakest shift first.
    """
    if all(run.results.shift is None for run in runs):
        return []
    plain = {
        _find_tested_checkpoint(run): _select_main_row(run.results)
        for run in reversed(runs)
        if run.results.shift is None
    }
    files = list(dict.fromkeys(map(_find_tested_checkpoint, runs)))
    ordered = sorted(runs, key=lambda run: (files.index(_find_tested_checkpoint(run)), *_sort_key(run.results.shift)))
    return [
        ShiftLine(
            run.name,
            describe(run.results.shift),
            [
                compare(_select_main_row(run.results), plain.get(_find_tested_checkpoint(run), {}), name)
                for name in HEADINGS
            ],
        )
        for run in ordered
    ]


def _find_tested_checkpoint(run: Run) -> Path:
    """Return the path of the tested checkpoint, or the run's directory if the checkpoint is unknown."""
    checkpoint = run.results.checkpoint
    return run.home.absolute() if checkpoint is None else (run.home.absolute() / checkpoint).resolve()


def _select_main_row(results: Results) -> Row:
    """Return the main row: the mean over categories if there are several, otherwise that of all images."""
    return results.rows[MEAN if MEAN in results.rows else POOLED]


def _sort_key(shift: dict[str, Any] | None) -> tuple[str, float, int]:
    """Return the key by which lines are sorted: kind, strength and seed of the shift."""
    return ("", 0.0, 0) if shift is None else (shift["kind"], shift["strength"], shift["seed"])


def describe(shift: dict[str, Any] | None) -> str:
    """Return a shift in words."""
    return "none" if shift is None else f"{shift['kind']} {shift['strength']:g}, seed {shift['seed']}"


def compare(values: Row, plain: Row, name: str) -> tuple[str, str]:
    """Return a metric, and its difference from that in `plain`; "" if unknown. For verdicts, compare rates."""
    key = VERDICTS[name][0] if name in VERDICTS else name
    difference = values.get(key, math.nan) - plain.get(key, math.nan)
    if math.isnan(difference) or values is plain:
        return format_value(values, name), ""
    return format_value(values, name), f"{100 * difference:+.3g} %" if name in VERDICTS else f"{difference:+.4f}"
