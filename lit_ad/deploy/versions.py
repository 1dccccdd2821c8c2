"""The versions of a detector in a journal: which judged, which grew from which, and which one is shipped.

DIR is the journal's folder, and the shipped version is the one in DIR/detector.ckpt. The standard library only.
"""

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

from lit_ad.deploy.journal_file import JournalFile
from lit_ad.detector.card import Card

_COLUMNS = "id, time, about, file, parent, state, report"


@dataclass(frozen=True)
class Version:
    """A detector that judged images of the journal, or grew from one that did."""

    id: int
    time: float  # when it entered the journal, in seconds since 1970
    about: str  # a few words for people: see `_describe_card`
    file: str | None  # the checkpoint's path below DIR; None: the checkpoint lies elsewhere
    parent: int | None  # id of the version that was shipped when this one was made; a rollback ships the parent again
    state: str  # "judged", "shipped", "refused" or "retired"
    report: str | None  # JSON: the comparison with its parent


class Versions:
    """Reads and writes the table of versions in a journal's file."""

    def __init__(self, file: JournalFile) -> None:
        self.file = file

    def register(self, card: Card, state: str = "judged", **values: Any) -> int:
        """Enter a detector in the table, unless it is there already, and return its id.

        Args:
            card: The detector's card.
            state: Its state. "judged" does not change the state of a version that is there already.
            **values: Columns to set: file, parent, report.
        """
        run, known = self.file.connection.execute, self.find(card)
        if known is None:
            insert = "INSERT INTO versions (time, fingerprint, about, state) VALUES (?, ?, ?, ?)"
            number = int(run(insert, (time.time(), _hash_card(card), _describe_card(card), state)).lastrowid or 0)
        else:
            number = known.id
            if state != "judged":
                run("UPDATE versions SET state = ? WHERE id = ?", (state, number))
        for name, value in values.items():
            run(f"UPDATE versions SET {name} = ? WHERE id = ?", (value, number))
        return number

    def find(self, card: Card) -> Version | None:
        """Return the version of a detector. None: the detector is not in the table."""
        query = f"SELECT {_COLUMNS} FROM versions WHERE fingerprint = ?"
        row = self.file.connection.execute(query, (_hash_card(card),)).fetchone()
        return None if row is None else Version(*row)

    def all(self) -> list[Version]:
        """Return all versions in the order of their ids."""
        return [Version(*row) for row in self.file.connection.execute(f"SELECT {_COLUMNS} FROM versions ORDER BY id")]

    def set_state(self, number: int, state: str) -> None:
        """Change the state of a version."""
        self.file.connection.execute("UPDATE versions SET state = ? WHERE id = ?", (state, number))

    def set_file(self, number: int, file: str | None) -> None:
        """Set the path below DIR of a version's checkpoint. None: the checkpoint is not kept."""
        self.file.connection.execute("UPDATE versions SET file = ? WHERE id = ?", (file, number))

    def remove(self, number: int) -> None:
        """Remove a version from the table."""
        self.file.connection.execute("DELETE FROM versions WHERE id = ?", (number,))

    def images(self) -> dict[int, dict[str, int]]:
        """Count the images that each version judged: {id: {verdict: count}}."""
        counts: dict[int, dict[str, int]] = {}
        query = "SELECT version, coalesce(verdict, 'no threshold'), count(*) FROM images GROUP BY 1, 2"
        for number, verdict, count in self.file.connection.execute(query):
            if number is not None:
                counts.setdefault(int(number), {})[verdict] = count
        return counts


def _describe_card(card: Card) -> str:
    """Return method, precision and threshold in a few words."""
    decision = card.decision
    threshold = "no threshold" if decision is None else f"threshold {decision.threshold():.6g}"
    return f"{card.method.rpartition('.')[2]}, {card.precision}, {threshold}"


def _hash_card(card: Card) -> str:
    """Return a hash of method, precision, view and decision.

    The decision has the exact scores of the held-out images, so two trainings have different hashes.
    """
    decision = None if card.decision is None else card.decision.without_names().to_dict()
    return hash_filled([card.method, card.precision, card.view.to_dict(), decision])


def hash_filled(values: Any) -> str:
    """Return a hash of plain values, in which empty fields (None, "", [] and {}) do not count.

    A later lit_ad may know more fields. They are empty for an earlier detector, which so stays the same one.
    """

    def keep_filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: kept for name, each in value.items() if (kept := keep_filled(each)) not in (None, "", [], {})}
        return value

    text = json.dumps([keep_filled(value) for value in values], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
