"""The journal on disk: one SQLite file, a row for each judged image. The standard library only.

SQLite's write-ahead log keeps every committed row when the process is killed; after a power failure the last ones may
be missing, but the file is whole.
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path

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
"""  # a journal of lit_ad's first schema goes on
KEPT = ("sample", "borderline", "anomalous")  # why a picture is kept; the first go first


@dataclass(frozen=True)
class Row:
    """A judged image."""

    time: float  # seconds since 1970
    source: str  # a camera or a line, as the user calls it; "": not said
    category: str  # whose threshold counted; "": that of all together
    name: str
    score: float
    p_value: float | None
    verdict: str | None  # anomalous, nominal; None without a threshold
    latency: float  # seconds
    kept: str | None  # of KEPT; None: without a picture
    sampled: bool  # whether it is of the random sample, which is drawn without a look at the score
    regions: str | None  # JSON, of anomalous images
    look: str | None = None  # JSON: brightness, contrast, sharpness and colour
    version: int | None = None  # of the detector, in the table of versions


@dataclass(frozen=True)
class Event:
    """What happened to the tests for drift: a reset, or an alarm."""

    id: int
    time: float
    kind: str  # reset or alarm
    source: str | None  # None: all
    category: str | None
    image: int  # the last row before it
    reason: str
    since: float | None = None  # of an alarm: when the change began, as near as it is known


NAMES = [field.name for field in fields(Row)]
COLUMNS = ", ".join(NAMES)
VALUES = attrgetter(*NAMES)  # dataclasses.astuple copies each value, which takes ten times as long
INSERT = f"INSERT INTO images (id, {COLUMNS}) VALUES ({', '.join('?' * (1 + len(NAMES)))})"


class JournalFile:
    """Rows, events and states of DIR/journal.sqlite.

    Args:
        folder: DIR.
        alone: Whether this process is the one that writes rows; there may be one at a time.

    Raises:
        UserError: It cannot be opened, another version of lit_ad wrote it, or another process writes to it.
    """

    def __init__(self, folder: Path, alone: bool) -> None:
        self.path = folder / NAME
        if not alone and not self.path.is_file():
            raise UserError(f"{self.path} is not there: give a folder that `lit-ad serve MODEL --journal DIR` has made")
        self._lock: sqlite3.Connection | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if alone:
                self._lock = sqlite3.connect(folder / LOCK, timeout=0, isolation_level=None, check_same_thread=False)
                lock(self._lock, folder)
            self.connection = sqlite3.connect(self.path, timeout=10, isolation_level=None, check_same_thread=False)
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"the journal {self.path} cannot be opened ({error}): give another --journal") from error

    def _prepare(self) -> None:
        run = self.connection.execute
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")
        version = run("PRAGMA user_version").fetchone()[0]
        if version not in (0, 1, VERSION):
            raise UserError(
                f"{self.path} has schema {version}, and this lit_ad reads {VERSION}: give another --journal"
            )
        if version < VERSION:
            made = (_FROM_1 if version == 1 else _SCHEMA) + _VERSIONS
            self.connection.executescript(f"BEGIN IMMEDIATE; {made} PRAGMA user_version = {VERSION}; COMMIT;")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that the block writes, or nothing."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:  # SQLite has ended it itself where the disk is full
                self.connection.execute("ROLLBACK")
            raise

    def insert(self, rows: Sequence[Row]) -> list[int]:
        """Write rows. Return their numbers, which rise."""
        first = self.last() + 1
        numbers = list(range(first, first + len(rows)))
        self.connection.executemany(INSERT, [(number, *VALUES(row)) for number, row in zip(numbers, rows, strict=True)])
        return numbers

    def last(self) -> int:
        """The number of the last row; 0 of none."""
        return int(self.connection.execute("SELECT coalesce(max(id), 0) FROM images").fetchone()[0])

    def rows(self, after: int = 0) -> Iterator[tuple[int, Row]]:
        """The rows behind that number, in order."""
        cursor = self.connection.execute(f"SELECT id, {COLUMNS} FROM images WHERE id > ? ORDER BY id", (after,))
        return ((values[0], Row(*values[1:])) for values in cursor)

    def last_time(self, source: str, name: str) -> float | None:
        """When an image of that name was last judged. None: never."""
        query = "SELECT max(time) FROM images WHERE source = ? AND name = ? AND name != ''"
        return self.connection.execute(query, (source, name)).fetchone()[0]  # type: ignore[no-any-return]

    def add_event(
        self, kind: str, source: str | None, category: str | None, reason: str, since: float | None = None
    ) -> int:
        """Write an event that comes after the last row. Return its number."""
        values = (time.time(), kind, source, category, self.last(), reason, since)
        insert = "INSERT INTO events (time, kind, source, category, image, reason, since) VALUES (?, ?, ?, ?, ?, ?, ?)"
        return int(self.connection.execute(insert, values).lastrowid or 0)

    def events(self, after: int = 0, kind: str = "%") -> list[Event]:
        """The events behind that number, in order."""
        cursor = self.connection.execute("SELECT * FROM events WHERE id > ? AND kind LIKE ? ORDER BY id", (after, kind))
        return [Event(*values) for values in cursor]

    def states(self) -> dict[tuple[str, str], str]:
        """Of the tests for drift, by source and category, when `fact("image")` was the last row."""
        cursor = self.connection.execute("SELECT source, category, state FROM drift")
        return {(source, category): state for source, category, state in cursor}

    def save_states(self, states: dict[tuple[str, str], str]) -> None:
        """Write those that have changed."""
        values = [(*key, state) for key, state in states.items()]
        self.connection.executemany("INSERT OR REPLACE INTO drift VALUES (?, ?, ?)", values)

    def forget_states(self) -> None:
        """Remove all states."""
        self.connection.execute("DELETE FROM drift")

    def fact(self, name: str) -> str | None:
        """A value that was written under a name."""
        row = self.connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def save_fact(self, name: str, value: object) -> None:
        """Write a value under a name."""
        self.connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, str(value)))

    def note_picture(self, image: int, picture: str | None, size: int | None) -> None:
        """Write the name and size of an image's picture; None: it has none any more."""
        self.connection.execute("UPDATE images SET picture = ?, bytes = ? WHERE id = ?", (picture, size, image))

    def pictures(self) -> dict[str, int]:
        """The sizes of all pictures, by name."""
        return dict(self.connection.execute("SELECT picture, bytes FROM images WHERE picture IS NOT NULL"))

    def first_to_go(self) -> tuple[int, str, int] | None:
        """The picture that is removed next, of those that nobody has labelled: number, name, size."""
        labelled = "SELECT image FROM labels WHERE undone IS NULL"
        for kept in KEPT:
            query = (
                "SELECT id, picture, bytes FROM images WHERE picture IS NOT NULL AND kept = ? "
                f"AND id NOT IN ({labelled}) ORDER BY id LIMIT 1"
            )
            row = self.connection.execute(query, (kept,)).fetchone()
            if row is not None:
                return int(row[0]), str(row[1]), int(row[2])
        return None

    def counts(self) -> dict[tuple[str, str], dict[str, int]]:
        """Images of each verdict, by source and category."""
        counts: dict[tuple[str, str], dict[str, int]] = {}
        query = "SELECT source, category, coalesce(verdict, 'no threshold'), count(*) FROM images GROUP BY 1, 2, 3"
        for source, category, verdict, count in self.connection.execute(query):
            counts.setdefault((source, category), {})[verdict] = count
        return counts

    def close(self) -> None:
        """Close the file; another process may write to it then."""
        self.connection.close()
        if self._lock is not None:
            self._lock.close()


def lock(connection: sqlite3.Connection, folder: Path) -> None:
    """Hold a file's lock until the connection is closed or the process ends, however it ends. Raises UserError."""
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise
        raise UserError(f"another process writes to the journal {folder}: end it, or give another --journal") from error
