"""Labels that people give to judged images: good, defect or unsure, with who gave them and when."""

import json
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

from lit_ad.deploy.alarms import describe_alarm
from lit_ad.deploy.journal_file import JournalFile
from lit_ad.deploy.pictures import PICTURES
from lit_ad.deploy.rates import measure_rates
from lit_ad.detector.decision import Decision
from lit_ad.errors import UserError
from lit_ad.names import printable

_LABELS = ("good", "defect", "unsure")
_MAX_ALARMS = 10
_MAX_NAME = 100  # characters of the name of a defect or a person; longer names are cut
_ORDERS = {
    "newest": "images.id DESC",
    "sample": "sampled DESC, images.id DESC",  # the random sample first
    "doubtful": "abs(coalesce(p_value, 1) - ?) ASC, images.id DESC",  # by the distance to the threshold's p-value
}
_COLUMNS = ("id", "time", "source", "category", "name", "score", "p_value", "verdict", "regions")
_LABELLED = "SELECT image FROM labels WHERE undone IS NULL"


class NoPicture(UserError):
    """An image has no picture, or none any more."""


class Labels:
    """Reads and writes the labels of a journal's images.

    Several threads may call it, and it may run beside the process that writes the journal's rows.

    Args:
        folder: DIR of the journal.
        rate: The p-value of the threshold. The nearer an image's p-value is to it, the more doubtful is its verdict.
    """

    def __init__(self, folder: Path, rate: float) -> None:
        self.folder, self.rate = folder, rate
        self._file, self._lock = JournalFile(folder, alone=False), threading.Lock()

    def list_unlabelled(self, order: str, most: int = 50) -> list[dict[str, Any]]:
        """List images that have a picture and no label yet.

        Args:
            order: "newest", "sample" (the random sample first) or "doubtful" (the nearest to the threshold first).
            most: The largest number of images to list.

        Returns:
            The columns of each image, as plain values for JSON.

        Raises:
            UserError: An unknown order.
        """
        if order not in _ORDERS:
            raise UserError(f"order is {order!r}, but it must be {' or '.join(_ORDERS)}")
        query = (
            f"SELECT id, picture FROM images WHERE picture IS NOT NULL AND id NOT IN ({_LABELLED}) "
            f"ORDER BY {_ORDERS[order]}"
        )
        run, columns = self._file.connection.execute, ", ".join(_COLUMNS)
        with self._lock:
            rows = run(query, [self.rate] * _ORDERS[order].count("?"))
            numbers = islice((number for number, picture in rows if self._find(picture).is_file()), most)
            shown = [run(f"SELECT {columns} FROM images WHERE id = ?", (number,)).fetchone() for number in numbers]
        images = [dict(zip(_COLUMNS, values, strict=True)) for values in shown]
        return [{**image, "regions": json.loads(image["regions"] or "[]")} for image in images]

    def add(self, image: int, label: str, defect: str = "", who: str = "") -> dict[str, str] | None:
        """Label an image. The new label replaces an earlier one.

        Args:
            image: The image's number in the journal.
            label: "good", "defect" or "unsure".
            defect: The name of the defect, or "".
            who: The name of the person.

        Returns:
            Label, defect and who of the label that was replaced. None: the image had no label.

        Raises:
            NoPicture: The image is unknown or has no picture.
            UserError: The label or the defect's name is not allowed.
        """
        if label not in _LABELS:
            raise UserError(f"label is {label!r}, but it must be {', '.join(_LABELS)}")
        who, defect = map(_clean_name, (who, defect))
        if label != "defect":
            defect = ""
        if defect == "good" or any(sign in defect for sign in "/\\") or (defect and not defect.strip(". ")):
            raise UserError(
                f"{defect!r} cannot be the name of a defect: give a name other than 'good', without slashes and "
                "control characters, and not only of dots"
            )
        values = (time.time(), image, label, defect, who)
        with self._lock, self._file.transaction():
            self._path(image)
            run, replaced = self._file.connection.execute, self._find_label(image)
            run("UPDATE labels SET undone = ? WHERE image = ? AND undone IS NULL", (values[0], image))
            run("INSERT INTO labels (time, image, label, defect, who) VALUES (?, ?, ?, ?, ?)", values)
        return replaced

    def undo(self, who: str = "") -> dict[str, Any] | None:
        """Take back the last label of a person that nobody has replaced. If it had replaced another label, the image
        has that one again.

        Returns:
            The image's number, and label, defect and who of two labels: "taken_back", and "again", which the image has
            now, or None. None: the person has no such label.
        """
        run = self._file.connection.execute
        with self._lock, self._file.transaction():
            query = "SELECT id, image, time FROM labels WHERE undone IS NULL AND who = ? ORDER BY id DESC LIMIT 1"
            row = run(query, (_clean_name(who),)).fetchone()
            if row is None:
                return None
            number, image, since = row
            taken_back = self._find_label(image)
            replaced = "SELECT max(id) FROM labels WHERE image = ? AND undone = ? AND id < ?"
            run(f"UPDATE labels SET undone = NULL WHERE id = ({replaced})", (image, since, number))
            run("UPDATE labels SET undone = ? WHERE id = ?", (time.time(), number))
            return {"image": image, "taken_back": taken_back, "again": self._find_label(image)}

    def _find_label(self, image: int) -> dict[str, str] | None:
        """Return label, defect and who of an image's present label. None: the image has no label."""
        query = "SELECT label, defect, who FROM labels WHERE image = ? AND undone IS NULL"
        row = self._file.connection.execute(query, (image,)).fetchone()
        return None if row is None else dict(zip(("label", "defect", "who"), row, strict=True))

    def counts(self) -> dict[str, int]:
        """Count the images of each label."""
        query = "SELECT label, count(*) FROM labels WHERE undone IS NULL GROUP BY label"
        with self._lock:
            return {**dict.fromkeys(_LABELS, 0), **dict(self._file.connection.execute(query))}

    def measure_rates(self, version: int, decision: Decision | None) -> list[dict[str, Any]]:
        """Count recall and false alarms by the labels: see `lit_ad.deploy.rates.measure_rates`."""
        with self._lock:
            return measure_rates(self._file, version, decision)

    def alarms(self) -> list[dict[str, Any]]:
        """Describe the last ten drift alarms, the newest first: see `describe_alarm`."""
        with self._lock:
            events = self._file.events(kind="alarm")[-_MAX_ALARMS:]
            return [describe_alarm(self._file, event) for event in reversed(events)]

    def picture(self, image: int) -> Path:
        """Return the path of an image's picture. Raises NoPicture if it has none."""
        with self._lock:
            return self._path(image)

    def _path(self, image: int) -> Path:
        query, number = "SELECT picture FROM images WHERE id = ?", min(image, 2**63 - 1)  # SQLite's largest number
        row = self._file.connection.execute(query, (number,)).fetchone()
        if row is None or row[0] is None or not self._find(row[0]).is_file():
            raise NoPicture(f"image {image} has no picture in the journal, or none any more")
        return self._find(row[0])

    def _find(self, picture: str) -> Path:
        return self.folder / PICTURES / picture

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _clean_name(text: str) -> str:
    """Return the name of a defect or a person as it is kept: on one line, and not longer than _MAX_NAME."""
    return printable(" ".join(text.split()))[:_MAX_NAME].rstrip()
