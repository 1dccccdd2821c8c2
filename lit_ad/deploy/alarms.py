"""What an alarm of drift shows: images before and after the change, and how their looks have moved."""

from typing import Any

from lit_ad.deploy.journal_file import Event, JournalFile
from lit_ad.deploy.looks import Move, moves

COMPARED = 500  # images on either side, those next to the change before it and the last ones after it
SHOWN = 4  # pictures on either side
_SIDES = {"before": "time < ?", "after": "time >= ?"}


def moves_since(file: JournalFile, source: str, category: str, since: float, until: int | None = None) -> list[Move]:
    """How the images since a time differ from those before it, what has moved most first.

    Args:
        file: The journal.
        source: Of the images.
        category: Of the images.
        since: When the change began.
        until: The last image that counts. None: all do.
    """
    before, after = (
        [str(row[0]) for row in _rows_beside(file, "look", side, source, category, since, until, COMPARED)]
        for side in _SIDES
    )
    return moves(before, after)


def in_words(moved: list[Move]) -> str:
    """What has moved most, as the end of a sentence; nothing where nothing is known."""
    if not moved:
        return ""
    most = moved[0]
    return (
        f"; {most.name} has moved most of how the images look, from {most.before:.1f} to {most.after:.1f} "
        f"({most.deviations:+.1f} standard deviations)"
    )


def describe_alarm(file: JournalFile, event: Event) -> dict[str, Any]:
    """An alarm with pictures of both sides and all that has moved, as plain values for JSON."""
    known: dict[str, Any] = {"id": event.id, "time": event.time, "reason": event.reason, "since": event.since}
    if event.since is None:  # of a journal that did not know it
        return {**known, "before": [], "after": [], "moves": []}
    where = event.source or "", event.category or "", event.since, event.image
    pictures = {side: [int(row[0]) for row in _rows_beside(file, "id", side, *where, SHOWN)] for side in _SIDES}
    return {**known, **pictures, "moves": [vars(move) for move in moves_since(file, *where)]}


def _rows_beside(
    file: JournalFile, column: str, side: str, source: str, category: str, since: float, until: int | None, most: int
) -> list[Any]:
    """A column of the last images before a time, or since it: those with a look, or with a picture."""
    query = (
        f"SELECT {column} FROM images WHERE source = ? AND category = ? AND {_SIDES[side]} AND id <= ? "
        f"AND {'picture' if column == 'id' else column} IS NOT NULL ORDER BY id DESC LIMIT ?"
    )
    last = file.last() if until is None else until
    return file.connection.execute(query, (source, category, since, last, most)).fetchall()
