"""The journal on disk: one SQLite file with a row for each judged image. The standard library only.

SQLite's write-ahead log keeps every committed row if the process is killed. After a power failure the last rows may be
missing, but the file is intact.
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lit_ad.errors import UserError

NAME, LOCK, VERSION = "journal.sqlite", "lock.sqlite", 2
_SCHEMA = """
CREATE TABLE images (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, source TEXT NOT NULL, category TEXT NOT NULL, name TEXT NOT NULL,
    score REAL NOT NULL, p_value REAL, verdict TEXT, latency REAL NOT NULL, kept TEXT,
    sampled INTEGER NOT NULL, regions TEXT, look TEXT, version INTEGER,
    picture TEXT, bytes INTEGER);
CREATE INDEX names ON images (source, name) WHERE name != '';
CREATE INDEX pictures ON images (kept, id) WHERE picture IS NOT NULL;
CREATE TABLE events (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, kind TEXT NOT NULL, source TEXT, category TEXT,
    image INTEGER NOT NULL, reason TEXT NOT NULL, since REAL);
CREATE TABLE drift (source TEXT NOT NULL, category TEXT NOT NULL, state TEXT NOT NULL, PRIMARY KEY (source, category));
CREATE TABLE labels (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, image INTEGER NOT NULL REFERENCES images (id), label TEXT NOT NULL,
    defect TEXT NOT NULL, who TEXT NOT NULL, undone REAL);
CREATE INDEX labels_of_images ON labels (image);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_VERSIONS = """
CREATE TABLE versions (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, fingerprint TEXT NOT NULL UNIQUE, about TEXT NOT NULL,
    file TEXT, parent INTEGER, state TEXT NOT NULL, report TEXT);
"""
_FROM_1 = """
ALTER TABLE images ADD COLUMN look TEXT;
ALTER TABLE images ADD COLUMN version INTEGER;
ALTER TABLE events ADD COLUMN since REAL;
CREATE INDEX names ON images (source, name) WHERE name != '';
"""  # upgrades a journal of schema 1
_KEPT = ("sample", "borderline", "anomalous")  # why a picture is kept; pictures of the first reason are removed first


class Row(NamedTuple):
    """A judged image."""

    time: float  # seconds since 1970
    source: str  # the user's name of the camera or line; "": no name
    category: str  # the category whose threshold decided; "": the threshold of all categories together
    name: str
    score: float
    p_value: float | None
    verdict: str | None  # "anomalous" or "nominal"; None: the detector has no threshold
    latency: float  # seconds
    kept: str | None  # why the picture is kept, one of _KEPT; None: no picture
    sampled: bool  # whether the image is in the random sample, which is drawn independently of the score
    regions: str | None  # JSON; only of anomalous images
    look: str | None = None  # JSON of brightness, contrast, sharpness and colour; None: not measured
    version: int | None = None  # the detector's id in the table of versions


@dataclass(frozen=True)
class Event:
    """An event of the journal: an alarm or a reset of the drift tests, or a newly shipped detector."""

    id: int
    time: float
    kind: str  # "reset", "alarm" or "shipped"
    source: str | None  # None: all sources
    category: str | None  # None: all categories
    image: int  # number of the last row before the event
    reason: str
    since: float | None = None  # of an alarm: the estimated time of the change, in seconds since 1970


_COLUMNS = ", ".join(Row._fields)
_INSERT = f"INSERT INTO images (id, {_COLUMNS}) VALUES ({', '.join('?' * (1 + len(Row._fields)))})"


class JournalFile:
    """Reads and writes DIR/journal.sqlite: rows, events, labels, and the states of the drift tests.

    Args:
        folder: DIR.
        alone: Whether this process writes rows. Only one process at a time may do so; others may read, label and reset.

    Raises:
        UserError: The file cannot be opened, has an unknown schema, or (if `alone`) another process writes rows.
    """

    def __init__(self, folder: Path, alone: bool) -> None:
        self.path = folder / NAME
        if not alone and not self.path.is_file():
            raise UserError(f"{self.path} does not exist: give a DIR that `lit-ad serve MODEL --journal DIR` has made")
        self._lock: sqlite3.Connection | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if alone:
                self._lock = lock_file(folder / LOCK)
                if self._lock is None:
                    raise UserError(
                        f"another process writes to the journal {folder}: end it, or give another --journal"
                    )
            self.connection = sqlite3.connect(self.path, timeout=10, isolation_level=None, check_same_thread=False)
            self._prepare()
        except BaseException as error:
            if self._lock is not None:
                self._lock.close()
            if not isinstance(error, OSError | sqlite3.Error):
                raise
            raise UserError(f"the journal {self.path} cannot be opened ({error}): give another --journal") from error

    def _prepare(self) -> None:
        """Create the tables in a new file, or upgrade an older schema. Raises UserError on an unknown schema."""
        run = self.connection.execute
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")
        version = run("PRAGMA user_version").fetchone()[0]
        if version not in (0, 1, VERSION):
            raise UserError(
                f"{self.path} has schema {version}, but this lit_ad reads schema {VERSION}: give another --journal"
            )
        if version < VERSION:
            changes = (_FROM_1 if version == 1 else _SCHEMA) + _VERSIONS
            self.connection.executescript(f"BEGIN IMMEDIATE; {changes} PRAGMA user_version = {VERSION}; COMMIT;")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write everything that the block writes, or nothing if the block raises."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:  # if the disk is full, SQLite has already rolled it back
                self.connection.execute("ROLLBACK")
            raise

    def insert(self, rows: Sequence[Row]) -> list[int]:
        """Write rows, and return their numbers, in rising order."""
        first = self.last() + 1
        numbers = list(range(first, first + len(rows)))
        values = [(number, *row) for number, row in zip(numbers, rows, strict=True)]
        self.connection.executemany(_INSERT, values)
        return numbers

    def last(self) -> int:
        """Return the number of the last row; 0 if there are no rows."""
        return int(self.connection.execute("SELECT coalesce(max(id), 0) FROM images").fetchone()[0])

    def rows(self, after: int = 0) -> Iterator[tuple[int, Row]]:
        """Yield the rows whose number is above `after`, each with its number, in order."""
        cursor = self.connection.execute(f"SELECT id, {_COLUMNS} FROM images WHERE id > ? ORDER BY id", (after,))
        return ((values[0], Row(*values[1:])) for values in cursor)

    def last_time(self, source: str, name: str) -> float | None:
        """Return when an image of this name was last judged, in seconds since 1970. None: never."""
        query = "SELECT max(time) FROM images WHERE source = ? AND name = ? AND name != ''"
        return self.connection.execute(query, (source, name)).fetchone()[0]  # type: ignore[no-any-return]

    def add_event(
        self, kind: str, source: str | None, category: str | None, reason: str, since: float | None = None
    ) -> int:
        """Write an event, and return its number. The event comes after the last row."""
        values = (time.time(), kind, source, category, self.last(), reason, since)
        insert = "INSERT INTO events (time, kind, source, category, image, reason, since) VALUES (?, ?, ?, ?, ?, ?, ?)"
        return int(self.connection.execute(insert, values).lastrowid or 0)

    def events(self, after: int = 0, kind: str = "%") -> list[Event]:
        """Return the events whose number is above `after`, in order. `kind` is a pattern of SQL's LIKE."""
        cursor = self.connection.execute("SELECT * FROM events WHERE id > ? AND kind LIKE ? ORDER BY id", (after, kind))
        return [Event(*values) for values in cursor]

    def states(self) -> dict[tuple[str, str], str]:
        """Return the saved states of the drift tests, by source and category.

        The states include all rows up to number `fact("image")`.
        """
        cursor = self.connection.execute("SELECT source, category, state FROM drift")
        return {(source, category): state for source, category, state in cursor}

    def save_states(self, states: dict[tuple[str, str], str]) -> None:
        """Write states of drift tests, by source and category, over earlier ones."""
        values = [(*key, state) for key, state in states.items()]
        self.connection.executemany("INSERT OR REPLACE INTO drift VALUES (?, ?, ?)", values)

    def forget_states(self) -> None:
        """Remove the states of all drift tests."""
        self.connection.execute("DELETE FROM drift")

    def fact(self, name: str) -> str | None:
        """Return the value that `save_fact` wrote under a name. None: there is none."""
        row = self.connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def save_fact(self, name: str, value: object) -> None:
        """Write a value under a name."""
        self.connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, str(value)))

    def remove_fact(self, name: str) -> None:
        """Remove a name and its value, if it is there."""
        self.connection.execute("DELETE FROM facts WHERE name = ?", (name,))

    def set_picture(self, image: int, picture: str | None, size: int | None) -> None:
        """Write the file name and the size in bytes of an image's picture. None: the image has no picture any more."""
        self.connection.execute("UPDATE images SET picture = ?, bytes = ? WHERE id = ?", (picture, size, image))

    def pictures(self) -> dict[str, int]:
        """Return the sizes of all pictures in bytes, by file name."""
        return dict(self.connection.execute("SELECT picture, bytes FROM images WHERE picture IS NOT NULL"))

    def picture_to_remove(self) -> tuple[int, str, int] | None:
        """Return the picture to remove next: the number of its image, its file name, and its size in bytes.

        Sampled pictures go first, then borderline ones, then anomalous ones, each the oldest first. Labelled pictures
        stay. None: there is no picture to remove.
        """
        labelled = "SELECT image FROM labels WHERE undone IS NULL"
        for kept in _KEPT:
            query = (
                "SELECT id, picture, bytes FROM images WHERE picture IS NOT NULL AND kept = ? "
                f"AND id NOT IN ({labelled}) ORDER BY id LIMIT 1"
            )
            row = self.connection.execute(query, (kept,)).fetchone()
            if row is not None:
                return int(row[0]), str(row[1]), int(row[2])
        return None

    def counts(self) -> dict[tuple[str, str], dict[str, int]]:
        """Count the images of each verdict, by source and category."""
        counts: dict[tuple[str, str], dict[str, int]] = {}
        query = "SELECT source, category, coalesce(verdict, 'no threshold'), count(*) FROM images GROUP BY 1, 2, 3"
        for source, category, verdict, count in self.connection.execute(query):
            counts.setdefault((source, category), {})[verdict] = count
        return counts

    def close(self) -> None:
        """Close the file, so that another process may write to it."""
        self.connection.close()
        if self._lock is not None:
            self._lock.close()


@contextmanager
def explain_journal_errors(folder: Path) -> Iterator[None]:
    """Raise UserError, which names the journal in a folder, in place of an error of SQLite in the block."""
    try:
        yield
    except sqlite3.Error as error:
        raise UserError(f"the journal {folder / NAME} cannot be used: {error}") from error


def lock_file(file: Path) -> sqlite3.Connection | None:
    """Lock a file until the connection is closed or the process ends, even by a kill. A missing file is made.

    Returns:
        The connection. None: the file is locked already.

    Raises:
        sqlite3.Error: The file cannot be locked.
    """
    connection = sqlite3.connect(file, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        connection.close()
        if "locked" not in str(error):
            raise
        return None
    return connection
