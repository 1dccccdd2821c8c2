"""The metrics of one detector by how the light of the test was shifted (`lit-ad data shift`)."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_ad.evaluation.report.runs import Run
from lit_ad.evaluation.report.table import HEADINGS
from lit_ad.evaluation.results import MEAN, POOLED, VERDICTS, Results, Row, shown


@dataclass(frozen=True)
class ShiftLine:
    """A test, in words."""

    run: str
    shift: str
    cells: list[tuple[str, str]]  # of each of HEADINGS the value, and the difference to the test that is not shifted


def list_shifts(runs: list[Run]) -> list[ShiftLine]:
    """Return a line for each test, those of one checkpoint together, the weakest shift first; nothing where no test was
    shifted."""
    if all(run.results.shift is None for run in runs):
        return []
    plain = {tested(run): figures(run.results) for run in reversed(runs) if run.results.shift is None}
    files = list(dict.fromkeys(map(tested, runs)))
    ordered = sorted(runs, key=lambda run: (files.index(tested(run)), *place(run.results.shift)))
    return [
        ShiftLine(
            run.name,
            describe(run.results.shift),
            [compare(figures(run.results), plain.get(tested(run), {}), name) for name in HEADINGS],
        )
        for run in ordered
    ]


def tested(run: Run) -> Path:
    """The checkpoint that was tested; the run's directory where that is not known."""
    checkpoint = run.results.checkpoint
    return run.home.absolute() if checkpoint is None else (run.home.absolute() / checkpoint).resolve()


def figures(results: Results) -> Row:
    """The main row: of several categories their mean."""
    return results.rows[MEAN if MEAN in results.rows else POOLED]


def place(shift: dict[str, Any] | None) -> tuple[str, float, int]:
    """What lines are sorted by."""
    return ("", 0.0, 0) if shift is None else (shift["kind"], shift["strength"], shift["seed"])


def describe(shift: dict[str, Any] | None) -> str:
    """A shift in words."""
    return "none" if shift is None else f"{shift['kind']} {shift['strength']:g}, seed {shift['seed']}"


def compare(values: Row, plain: Row, name: str) -> tuple[str, str]:
    """A metric, and its difference to `plain`; "" of what is not there. Of verdicts it is that of their rates."""
    key = VERDICTS[name][0] if name in VERDICTS else name
    difference = values.get(key, math.nan) - plain.get(key, math.nan)
    if math.isnan(difference) or values is plain:
        return shown(values, name), ""
    return shown(values, name), f"{100 * difference:+.3g} %" if name in VERDICTS else f"{difference:+.4f}"
