"""The detectors that a journal has seen: which judged, which grew from which, and which one is shipped.

The standard library only.
"""

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

from lit_ad.deploy.journal_file import JournalFile
from lit_ad.detector.card import Card

COLUMNS = "id, time, about, file, parent, state, report"
_STATES = ("judged", "shipped", "refused", "retired")


@dataclass(frozen=True)
class Version:
    """A detector."""

    id: int
    time: float  # when the journal saw it first
    about: str
    file: str | None  # below DIR; None: it lies elsewhere
    parent: int | None  # that it was compared with: the one shipped then, which a rollback goes back to
    state: str  # of STATES
    report: str | None  # JSON: how it compares with its parent


class Versions:
    """The table of versions in a journal's file."""

    def __init__(self, file: JournalFile) -> None:
        self.file = file

    def register(self, card: Card, state: str = "judged", **values: Any) -> int:
        """The number of a detector, which is entered where it is not there yet; `values` are set: file, parent, report.

        A state of "judged" does not change that of a version that is there.
        """
        run, print_ = self.file.connection.execute, fingerprint(card)
        row = run("SELECT id FROM versions WHERE fingerprint = ?", (print_,)).fetchone()
        if row is None:
            insert = "INSERT INTO versions (time, fingerprint, about, state) VALUES (?, ?, ?, ?)"
            number = int(run(insert, (time.time(), print_, about(card), state)).lastrowid or 0)
        else:
            number = int(row[0])
            if state != "judged":
                run("UPDATE versions SET state = ? WHERE id = ?", (state, number))
        for name, value in values.items():
            run(f"UPDATE versions SET {name} = ? WHERE id = ?", (value, number))
        return number

    def all(self) -> list[Version]:
        """Each version, the first first."""
        return [Version(*row) for row in self.file.connection.execute(f"SELECT {COLUMNS} FROM versions ORDER BY id")]

    def set_state(self, number: int, state: str) -> None:
        """Change the state of a version."""
        self.file.connection.execute("UPDATE versions SET state = ? WHERE id = ?", (state, number))

    def set_file(self, number: int, file: str | None) -> None:
        """Say where below DIR the file of a version is. None: it is not kept."""
        self.file.connection.execute("UPDATE versions SET file = ? WHERE id = ?", (file, number))

    def remove(self, number: int) -> None:
        """Forget a version."""
        self.file.connection.execute("DELETE FROM versions WHERE id = ?", (number,))

    def images(self) -> dict[int, dict[str, int]]:
        """How many images each version has judged, by verdict."""
        counts: dict[int, dict[str, int]] = {}
        query = "SELECT version, coalesce(verdict, 'no threshold'), count(*) FROM images GROUP BY 1, 2"
        for number, verdict, count in self.file.connection.execute(query):
            if number is not None:
                counts.setdefault(int(number), {})[verdict] = count
        return counts


def about(card: Card) -> str:
    """A detector in a few words."""
    decision = card.decision
    threshold = "no threshold" if decision is None else f"threshold {decision.threshold():.6g}"
    return f"{card.method.rpartition('.')[2]}, {card.precision}, {threshold}"


def fingerprint(card: Card) -> str:
    """Tells detectors apart by what they say of the held-out images, to the last bit."""
    decision = None if card.decision is None else card.decision.to_dict()
    text = json.dumps([card.method, card.precision, card.view.to_dict(), decision], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
