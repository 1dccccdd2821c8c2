"""The thread that writes a journal: rows, several in one transaction, then their pictures, and the tests for drift.

Judging only puts a record into a queue, so that a slow or full disk holds nothing up. What cannot be written is counted
as dropped.
"""

import json
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from queue import Empty, Full, Queue

from lit_ad.deploy.alarms import in_words, moves_since
from lit_ad.deploy.drift_watch import DriftWatch
from lit_ad.deploy.journal_file import JournalFile, Row
from lit_ad.deploy.pictures import Pictures, encoded
from lit_ad.detector.detection import Detection

WAITING = 10_000  # rows that wait to be written
WAITING_BYTES = 256 * 2**20  # of pictures that wait
_TOGETHER = 500  # rows of a transaction
_GATHERED = 0.05  # seconds in which rows that nobody waits for are gathered: a transaction takes as long as a few rows
SAVED = 1000  # rows after which the states of the tests are saved; a start reads the rows since then again
PATIENCE = 30.0  # seconds that the end waits for what is still to be written


@dataclass
class Record:
    """A row on its way, and what its picture is made of."""

    row: Row
    detection: Detection | None  # None: without a picture
    file: bytes | None  # the image file as it came; None: a PNG is made of the pixels
    size: int  # bytes that it holds in memory
    written: Future[bool]
    awaited: bool = True  # whether somebody waits for that; else it is written with those that come soon after it


class Writer:
    """Writes records to a journal's file.

    Args:
        file: Which this process alone writes to; it is closed in the end.
        pictures: Beside it.
        watch: The tests for drift, which have taken up what the file has.
    """

    def __init__(self, file: JournalFile, pictures: Pictures, watch: DriftWatch) -> None:
        self.file, self.pictures, self.watch = file, pictures, watch
        self.dropped = self.dropped_pictures = 0
        self.trouble = ""  # what the last one was dropped for
        self._queue: Queue[Record | None] = Queue(WAITING)
        self._bytes, self._counting = 0, threading.Lock()
        events = file.events()
        self._saved, self._event = 0, events[-1].id if events else 0  # rows since the states were saved; heeded last
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Rows that are still to be written."""
        return self._queue.qsize()

    def put(self, record: Record) -> None:
        """Have a record written. Return at once."""
        with self._counting:
            if self._bytes + record.size > WAITING_BYTES:
                self.dropped_pictures += 1
                self.trouble = "pictures wait for the disk, as many as fit into memory"
                record.detection, record.file, record.size = None, None, 0
            self._bytes += record.size
        try:
            if not self._thread.is_alive():
                raise Full
            self._queue.put_nowait(record)
        except Full:
            with self._counting:
                self._bytes -= record.size
            self._drop([record], f"the journal is closed, or {WAITING} rows wait for the disk")

    def close(self) -> None:
        """Write what waits, and close the file."""
        if not self._thread.is_alive():
            return
        with suppress(Full):
            self._queue.put(None, timeout=PATIENCE)
        self._thread.join(PATIENCE)

    def _work(self) -> None:
        """Write records until a None comes."""
        going = True
        while going:
            batch = [self._queue.get()]
            if batch[0] is not None and not batch[0].awaited:
                time.sleep(_GATHERED)
            with suppress(Empty):
                while len(batch) < _TOGETHER and batch[-1] is not None:
                    batch.append(self._queue.get_nowait())
            going = batch[-1] is not None
            records = [record for record in batch if record is not None]
            if records:
                self._write(records)
        with suppress(Exception), self.file.transaction():  # else the next start reads the rows again
            self._save_states()
        self.file.close()

    def _write(self, records: list[Record]) -> None:
        try:
            numbers = self._store(records)
        except Exception as error:  # whatever it is, judging goes on
            self._drop(records, str(error))
        else:
            for record in records:
                record.written.set_result(True)
            for record, number in zip(records, numbers, strict=True):
                self._keep(record, number)
        with self._counting:
            self._bytes -= sum(record.size for record in records)

    def _store(self, records: list[Record]) -> list[int]:
        """Write the rows and test them. Return their numbers."""
        rows = [replace(record.row, regions=regions_of(record)) for record in records]
        with self.file.transaction():
            resets = self.file.events(self._event, "reset")
            self.watch.apply(resets)
            alarms = [(row, *alarm) for row in rows for alarm in self.watch.update(row)]
            numbers = self.file.insert(rows)
            for row, words, since in alarms:
                moved = in_words(moves_since(self.file, row.source, row.category, since))
                self.file.add_event("alarm", row.source, row.category, words + moved, since)
            self._event = resets[-1].id if resets else self._event
            self._saved += len(rows)
            if resets or self._saved >= SAVED:
                self._save_states()
        return numbers

    def _keep(self, record: Record, number: int) -> None:
        """Write the picture of a row."""
        if record.detection is None:
            return
        try:
            reason = (
                ""
                if self.pictures.save(number, *encoded(record.detection.image, record.file))
                else "pictures_mib leaves no room for a picture"
            )
        except Exception as error:  # as above
            reason = str(error)
        if reason:
            self.dropped_pictures, self.trouble = self.dropped_pictures + 1, reason

    def _drop(self, records: list[Record], reason: str) -> None:
        with self._counting:
            self.dropped, self.trouble = self.dropped + len(records), reason
        for record in records:
            record.written.set_result(False)

    def _save_states(self) -> None:
        save_states(self.file, self.watch, self._event)
        self._saved = 0


def save_states(file: JournalFile, watch: DriftWatch, event: int) -> None:
    """Write the states of the tests, which have seen all rows and the events up to that number."""
    file.save_states(watch.states())
    file.save_fact("image", file.last())
    file.save_fact("event", event)


def regions_of(record: Record) -> str | None:
    """The regions of an anomalous image, as JSON."""
    if record.detection is None or record.row.kept != "anomalous":
        return None
    return json.dumps([asdict(region) for region in record.detection.regions])
