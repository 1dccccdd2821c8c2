"""`lit-ad journal`."""

import json
from datetime import UTC, datetime
from pathlib import Path

from tabulate import tabulate

from lit_ad.deploy.journal_file import JournalFile, explain_journal_errors
from lit_ad.deploy.versions import Versions
from lit_ad.errors import UserError
from lit_ad.line.shipping import SHIPPED, roll_back, ship_again
from lit_ad.line.unfinished import clean_up
from lit_ad.names import printable


def journal(
    folder: Path,
    /,
    reset: str | None = None,
    source: str | None = None,
    category: str | None = None,
    rollback: bool = False,
    ship: int | None = None,
) -> None:
    """Print what the journal of `lit-ad serve MODEL --journal DIR` holds: verdicts, detectors, alarms and resets.

    With --reset the tests for drift begin again, for example after maintenance. They begin with the next image of a
    running service, or when the service starts. Their promise on false alarms begins again too.

    What a killed `lit-ad grow` left is removed first.

    Args:
        folder: DIR, the journal's folder.
        reset: The reason for a reset, such as "new lamp". The journal keeps it.
        source: The source whose tests are reset. None: all sources.
        category: The category whose tests are reset. None: all categories.
        rollback: Take back the last shipping (`lit-ad grow` or --ship): DIR/detector.ckpt becomes the version that it
            was before. Another --rollback goes further back.
        ship: The version to ship: DIR/detector.ckpt becomes this one. It may have been refused or taken back.

    Raises:
        UserError: There is no such journal, source or category, or no reason for a reset, or no such detector.
    """
    if rollback and ship is not None:
        raise UserError("--rollback and --ship both choose a detector: give one of them")
    if (rollback or ship is not None) and (reset, source, category) != (None, None, None):
        name = "--rollback" if rollback else "--ship"
        raise UserError(f"{name} resets no tests, because another detector begins new ones: give it alone")
    with explain_journal_errors(folder):
        clean_up(folder)
        if rollback or ship is not None:
            number = roll_back(folder).id if ship is None else ship_again(folder, ship)
            print(f"{folder / SHIPPED} is version {number} now. Restart a running service, so that it loads it")
            return
        file = JournalFile(folder, alone=False)
        _reset(file, reset, source, category)
        _print_journal(file)
        file.close()


def _reset(file: JournalFile, reset: str | None, source: str | None, category: str | None) -> None:
    """Restart drift tests, as `journal` says. Do nothing if no reset is asked for."""
    if reset is None and (source is not None or category is not None):
        raise UserError('--source and --category say which tests to reset: give --reset "the reason" as well')
    if reset is not None:
        if not reset.strip():
            raise UserError('--reset is empty: give the reason, such as --reset "new lamp"')
        asked = {"source": source, "category": category}
        if not any(source in (None, pair[0]) and category in (None, pair[1]) for pair in file.counts()):
            names = " and ".join(f"{name} {value}" for name, value in asked.items() if value is not None)
            raise UserError(
                f"no image of {names or 'any source'} was judged: lit-ad journal {file.path.parent} lists all sources"
            )
        file.add_event("reset", source, category, reset)


def _print_journal(file: JournalFile) -> None:
    """Print the verdicts, the detectors and the events."""
    rows = [
        [printable(origin) or "-", kind or "-", *(verdicts.get(name, 0) for name in ("nominal", "anomalous"))]
        for (origin, kind), verdicts in file.counts().items()
    ]
    print(tabulate(rows, headers=["source", "category", "nominal", "anomalous"]))
    _print_versions(Versions(file))
    for event in file.events():
        when = datetime.fromtimestamp(event.time, UTC).isoformat(" ", "seconds")
        where = "".join(
            f", {name} {printable(origin)}"
            for name, origin in (("source", event.source), ("category", event.category))
            if origin
        )
        print(f"{when}  {event.kind}{where if event.kind == 'reset' else ''}: {event.reason}")


def _print_versions(versions: Versions) -> None:
    """Print a table of the detectors: the verdicts of each, and its comparison with the detector before it."""
    judged, rows = versions.images(), []
    for version in versions.all():
        counts = judged.get(version.id, {})
        report = {} if version.report is None else json.loads(version.report)
        compared = report.get("comparisons", [])
        wrong = [f"{each['group']} {each['old']} -> {each['new']} of {each['images']}" for each in compared]
        rows.append(
            [
                *(version.id, version.state, version.about, version.parent or "-"),
                *(counts.get(name, 0) for name in ("nominal", "anomalous")),
                "; ".join(wrong),
            ]
        )
    headers = ["version", "state", "detector", "compared with", "nominal", "anomalous", "wrong verdicts, old -> new"]
    if rows:
        print(tabulate(rows, headers=headers))
