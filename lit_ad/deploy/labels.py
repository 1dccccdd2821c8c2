"""What people say of judged images: good, defect or unsure; who and when."""

import json
import threading
import time
from pathlib import Path
from typing import Any

from lit_ad.deploy.alarms import describe_alarm
from lit_ad.deploy.journal_file import JournalFile
from lit_ad.deploy.measured import measured_rates
from lit_ad.detector.decision import Decision
from lit_ad.errors import UserError
from lit_ad.names import printable

LABELS = ("good", "defect", "unsure")
_MOST_ALARMS = 10
LONGEST = 100  # characters of a defect's or a person's name
_ORDERS = {
    "newest": "images.id DESC",
    "sample": "sampled DESC, images.id DESC",  # the random sample, then the others
    "doubtful": "abs(coalesce(p_value, 1) - ?) ASC, images.id DESC",  # how far from the threshold's p-value
}
COLUMNS = ("id", "time", "source", "category", "name", "score", "p_value", "verdict", "regions")
LABELLED = "SELECT image FROM labels WHERE undone IS NULL"


class Labels:
    """The labels of a journal's images. May be called from several threads, beside the process that writes the rows.

    Args:
        folder: DIR of the journal.
        rate: The p-value of the threshold: an image is the more doubtful, the nearer its own is to that.
    """

    def __init__(self, folder: Path, rate: float) -> None:
        self.folder, self.rate = folder, rate
        self._file, self._lock = JournalFile(folder, alone=False), threading.Lock()

    def to_review(self, order: str, most: int = 50) -> list[dict[str, Any]]:
        """Images with a picture and without a label, as plain values for JSON.

        Raises UserError on an order that is none of ORDERS.
        """
        if order not in _ORDERS:
            raise UserError(f"order is {order!r}, but it must be {' or '.join(_ORDERS)}")
        query = (
            f"SELECT {', '.join(COLUMNS)} FROM images WHERE picture IS NOT NULL AND id NOT IN ({LABELLED}) "
            f"ORDER BY {_ORDERS[order]} LIMIT {most:d}"
        )
        with self._lock:
            rows = self._file.connection.execute(query, [self.rate] * _ORDERS[order].count("?")).fetchall()
        listed = [dict(zip(COLUMNS, values, strict=True)) for values in rows]
        return [{**each, "regions": json.loads(each["regions"] or "[]")} for each in listed]

    def add(self, image: int, label: str, defect: str = "", who: str = "") -> None:
        """Label an image; an earlier label of it counts no more.

        Raises UserError on an unknown image, one without a picture, or an unknown label.
        """
        if label not in LABELS:
            raise UserError(f"label is {label!r}, but it must be {', '.join(LABELS)}")
        if label != "defect":
            defect = ""
        if defect == "good" or any(sign in defect for sign in "/\\") or (defect and not defect.strip(". ")):
            raise UserError(f"{defect!r} is no name of a defect: it is 'good', or has a slash, or dots alone")
        values = (time.time(), image, label, *(printable(text.strip())[:LONGEST] for text in (defect, who)))
        with self._lock, self._file.transaction():
            self._path(image)
            self._file.connection.execute(
                "UPDATE labels SET undone = ? WHERE image = ? AND undone IS NULL", (values[0], image)
            )
            self._file.connection.execute(
                "INSERT INTO labels (time, image, label, defect, who) VALUES (?, ?, ?, ?, ?)", values
            )

    def undo(self, who: str = "") -> int | None:
        """Take back a person's last label. Return the image, whose earlier label does not come back; None of none."""
        run = self._file.connection.execute
        with self._lock, self._file.transaction():
            query = "SELECT id, image FROM labels WHERE undone IS NULL AND who = ? ORDER BY id DESC LIMIT 1"
            row = run(query, (printable(who.strip())[:LONGEST],)).fetchone()
            if row is None:
                return None
            run("UPDATE labels SET undone = ? WHERE id = ?", (time.time(), row[0]))
        return int(row[1])

    def counts(self) -> dict[str, int]:
        """How many images have each label."""
        query = "SELECT label, count(*) FROM labels WHERE undone IS NULL GROUP BY label"
        with self._lock:
            return {**dict.fromkeys(LABELS, 0), **dict(self._file.connection.execute(query))}

    def measured(self, version: int, decision: Decision | None) -> list[dict[str, Any]]:
        """As `measured_rates` says."""
        with self._lock:
            return measured_rates(self._file, version, decision)

    def alarms(self) -> list[dict[str, Any]]:
        """The last ten alarms of drift, the newest first, with images of both sides and what has moved."""
        with self._lock:
            events = self._file.events(kind="alarm")[-_MOST_ALARMS:]
            return [describe_alarm(self._file, event) for event in reversed(events)]

    def picture(self, image: int) -> Path:
        """An image's file. Raises UserError if it has none."""
        with self._lock:
            return self._path(image)

    def _path(self, image: int) -> Path:
        row = self._file.connection.execute("SELECT picture FROM images WHERE id = ?", (image,)).fetchone()
        if row is None or row[0] is None:
            raise UserError(f"image {image} has no picture in the journal")
        return self.folder / "pictures" / str(row[0])

    def close(self) -> None:
        """Close the file."""
        self._file.close()
