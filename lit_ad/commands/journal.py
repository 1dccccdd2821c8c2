"""`lit-ad journal`."""

import json
from datetime import UTC, datetime
from pathlib import Path

from tabulate import tabulate

from lit_ad.deploy.journal_file import JournalFile
from lit_ad.deploy.versions import Versions
from lit_ad.errors import UserError
from lit_ad.line.shipping import SHIPPED, roll_back
from lit_ad.names import printable


def journal(
    folder: Path,
    /,
    reset: str | None = None,
    source: str | None = None,
    category: str | None = None,
    rollback: bool = False,
) -> None:
    """Print what the journal of `lit-ad serve MODEL --journal DIR` holds: verdicts, detectors, alarms and resets.

    With --reset the tests for drift begin anew, after maintenance for example: with the next image where the service is
    running, else when it starts. The promise on false alarms begins anew with them.

    Args:
        folder: DIR.
        reset: The reason, such as "new lamp"; it is kept in the journal.
        source: The one whose tests begin anew. None: all.
        category: The same of a category.
        rollback: Ship the detector again that was shipped before this one (`lit-ad grow`), as DIR/detector.ckpt.
    """
    if rollback:
        version = roll_back(folder)
        print(f"Version {version.id} is {folder / SHIPPED} again; a running service takes it when it is started again")
        return
    file = JournalFile(folder, alone=False)
    if reset is None and (source is not None or category is not None):
        raise UserError('--source and --category say which tests begin anew: give --reset "the reason" as well')
    if reset is not None:
        if not reset.strip():
            raise UserError('--reset is empty: give the reason, such as --reset "new lamp"')
        asked = {"source": source, "category": category}
        if not any(source in (None, pair[0]) and category in (None, pair[1]) for pair in file.counts()):
            names = " and ".join(f"{name} {value}" for name, value in asked.items() if value is not None)
            raise UserError(f"no image of {names or 'any source'} was judged: lit-ad journal {folder} lists what was")
        file.add_event("reset", source, category, reset)
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
    file.close()


def _print_versions(versions: Versions) -> None:
    """Print the detectors beside one another: what each judged, and how it compared with the one before."""
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
