"""Details of a drift alarm: pictures from before and after the change, and how the brightness, contrast, sharpness and
colour of the images changed."""

from typing import Any

from lit_ad.deploy.journal_file import Event, JournalFile
from lit_ad.deploy.looks import Move, compare_looks

_MAX_COMPARED = 500  # images on each side of the change: the last ones before it, and the newest ones after it
_MAX_SHOWN = 4  # pictures on each side
_SIDES = {"before": "id < ?", "after": "id >= ?"}


def compare_looks_since(
    file: JournalFile, source: str, category: str, since: float, until: int | None = None
) -> list[Move]:
    """Compare the brightness, contrast, sharpness and colour of images before and after a time.

    Args:
        file: The journal.
        source: The source of the images.
        category: The category of the images.
        since: The time of the change, in seconds since 1970.
        until: The number of the last image to compare. None: the last of the journal.

    Returns:
        How each of brightness, contrast, sharpness, red and blue changed, the largest change first. Empty if too few
        images were measured.
    """
    before, after = (
        [str(row[0]) for row in _read_last_rows(file, "look", side, source, category, since, until, _MAX_COMPARED)]
        for side in _SIDES
    )
    return compare_looks(before, after)


def phrase_largest_move(moves: list[Move]) -> str:
    """Return the largest of the changes as the end of a sentence, or "" if there are none."""
    if not moves:
        return ""
    largest = moves[0]
    return (
        f"; of the images' looks, {largest.name} changed most: from {largest.before:.1f} to {largest.after:.1f} "
        f"({largest.deviations:+.1f} standard deviations)"
    )


def describe_alarm(file: JournalFile, event: Event) -> dict[str, Any]:
    """Return an alarm as plain values for JSON: with the numbers of pictures from before and after the change, and how
    the brightness, contrast, sharpness and colour of the images changed."""
    values: dict[str, Any] = {"id": event.id, "time": event.time, "reason": event.reason, "since": event.since}
    if event.since is None:  # an older version of lit_ad wrote the alarm, without the time of the change
        return {**values, "before": [], "after": [], "moves": []}
    where = event.source or "", event.category or "", event.since, event.image
    pictures = {side: [int(row[0]) for row in _read_last_rows(file, "id", side, *where, _MAX_SHOWN)] for side in _SIDES}
    return {**values, **pictures, "moves": [vars(move) for move in compare_looks_since(file, *where)]}


def _read_last_rows(
    file: JournalFile, column: str, side: str, source: str, category: str, since: float, until: int | None, most: int
) -> list[Any]:
    """Read a column of at most `most` images on one side of a time, the newest first.

    Images without a value in the column do not count; for the column `id`, images without a picture do not count.
    """
    first = _find_first_image(file, source, category, since)
    query = (
        f"SELECT {column} FROM images WHERE source = ? AND category = ? AND {_SIDES[side]} AND id <= ? "
        f"AND {'picture' if column == 'id' else column} IS NOT NULL ORDER BY id DESC LIMIT ?"
    )
    last = file.last() if until is None else until
    return file.connection.execute(query, (source, category, first, last, most)).fetchall()


def _find_first_image(file: JournalFile, source: str, category: str, since: float) -> int:
    """Return the number of the image that came at a time, or else of the first one after it.

    Images are compared by their numbers, because the clock may have been set back between them.
    """
    select = "SELECT {}(id) FROM images WHERE source = ? AND category = ? AND time {} ?"
    query = f"SELECT coalesce(({select.format('max', '=')}), ({select.format('min', '>')}), ?)"
    values = (source, category, since)
    return int(file.connection.execute(query, (*values, *values, file.last() + 1)).fetchone()[0])
