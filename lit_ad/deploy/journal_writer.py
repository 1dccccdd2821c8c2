"""The thread that writes a journal: it updates the drift tests, writes several rows at once, and then their pictures.

Judging only puts a record into a queue, so a slow or full disk does not delay verdicts. Records that cannot be written
are counted as dropped.
"""

import json
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from queue import Empty, Full, Queue

from lit_ad.deploy.alarms import compare_looks_since, phrase_largest_move
from lit_ad.deploy.drift_watch import DriftWatch
from lit_ad.deploy.journal_file import JournalFile, Row
from lit_ad.deploy.pictures import Pictures, encode_picture
from lit_ad.detector.detection import Detection

_MAX_WAITING = 10_000  # rows in the queue
MAX_WAITING_BYTES = 256 * 2**20  # bytes of pictures in the queue
_MAX_BATCH = 500  # rows in one transaction
_GATHER_SECONDS = 0.2  # wait for more rows if no caller waits: one transaction takes as long as writing a few rows
_ROWS_PER_SAVE = 1000  # how often the states of the tests are saved; a start reads the rows since the last save again
_CLOSE_SECONDS = 30.0  # `close` waits this long for the queue to empty


@dataclass
class Record:
    """A row in the queue, and the image for its picture."""

    row: Row
    detection: Detection | None  # None: no picture is kept
    file: bytes | None  # the image file; None: the picture is a PNG of the detection's pixels
    size: int  # bytes of the image in memory
    written: Future[bool]  # True when the row is on disk, False if it was dropped
    awaited: bool = True  # whether a caller waits for `written`; if not, the writer gathers more rows first


class Writer:
    """Writes records to a journal's file, in a thread of its own.

    Args:
        file: The journal's file, opened with `alone`. `close` closes it.
        pictures: The journal's pictures.
        watch: The drift tests, loaded from the file.
    """

    def __init__(self, file: JournalFile, pictures: Pictures, watch: DriftWatch) -> None:
        self.file, self.pictures, self.watch = file, pictures, watch
        self.dropped = self.dropped_pictures = 0
        self.trouble = ""  # why the last row or picture was dropped
        self._queue: Queue[Record | None] = Queue(_MAX_WAITING)
        self._bytes, self._counting = 0, threading.Lock()
        events = file.events()
        self._unsaved = 0  # rows since the states of the tests were saved
        self._event = events[-1].id if events else 0  # number of the last event that the tests know
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """The number of rows in the queue."""
        return self._queue.qsize()

    def put(self, record: Record) -> None:
        """Put a record into the queue, and return at once. Drop its picture, or all of it, if the queue is full."""
        with self._counting:
            if self._bytes + record.size > MAX_WAITING_BYTES:
                self.dropped_pictures += 1
                self.trouble = f"the pictures that wait for the disk fill {MAX_WAITING_BYTES / 2**20:g} MiB of memory"
                record.detection, record.file, record.size = None, None, 0
            self._bytes += record.size
        try:
            if not self._thread.is_alive():
                raise Full
            self._queue.put_nowait(record)
        except Full:
            with self._counting:
                self._bytes -= record.size
            self._drop([record], f"the journal is closed, or {_MAX_WAITING} rows wait for the disk")

    def close(self) -> None:
        """Write the records in the queue, and close the file."""
        if not self._thread.is_alive():
            return
        with suppress(Full):
            self._queue.put(None, timeout=_CLOSE_SECONDS)
        self._thread.join(_CLOSE_SECONDS)

    def _work(self) -> None:
        """Write the records of the queue until it yields None."""
        open_ = True
        while open_:
            batch = [self._queue.get()]
            if batch[0] is not None and not batch[0].awaited:
                time.sleep(_GATHER_SECONDS)
            with suppress(Empty):
                while len(batch) < _MAX_BATCH and batch[-1] is not None:
                    batch.append(self._queue.get_nowait())
            open_ = batch[-1] is not None
            records = [record for record in batch if record is not None]
            if records:
                self._write(records)
        with suppress(Exception), self.file.transaction():  # if this fails, the next start reads the rows again
            self._save_states()
        self.file.close()

    def _write(self, records: list[Record]) -> None:
        """Write rows, then their pictures. If the rows cannot be written, drop them."""
        try:
            numbers = self._store_rows(records)
        except Exception as error:  # no error of the journal may stop the judging
            self._drop(records, str(error))
        else:
            for record in records:
                record.written.set_result(True)
            for record, number in zip(records, numbers, strict=True):
                self._save_picture(record, number)
        with self._counting:
            self._bytes -= sum(record.size for record in records)

    def _store_rows(self, records: list[Record]) -> list[int]:
        """Add the rows to the drift tests, and write rows and alarms in one transaction. Return the rows' numbers."""
        rows = [replace(record.row, regions=format_regions(record)) for record in records]
        with self.file.transaction():
            resets = self.file.events(self._event, "reset")
            self.watch.apply(resets)
            alarms = [(row, *alarm) for row in rows for alarm in self.watch.update(row)]
            numbers = self.file.insert(rows)
            for row, alarm, since in alarms:
                move = phrase_largest_move(compare_looks_since(self.file, row.source, row.category, since))
                self.file.add_event("alarm", row.source, row.category, alarm + move, since)
            self._event = resets[-1].id if resets else self._event
            self._unsaved += len(rows)
            if resets or self._unsaved >= _ROWS_PER_SAVE:
                self._save_states()
        return numbers

    def _save_picture(self, record: Record, number: int) -> None:
        """Write the picture of row `number`, or count it as dropped."""
        if record.detection is None:
            return
        trouble = ""
        try:
            if not self.pictures.save(number, *encode_picture(record.detection.image, record.file)):
                trouble = "pictures_mib leaves no room for a picture"
        except Exception as error:  # no error of the journal may stop the judging
            trouble = str(error)
        if trouble:
            self.dropped_pictures, self.trouble = self.dropped_pictures + 1, trouble

    def _drop(self, records: list[Record], reason: str) -> None:
        with self._counting:
            self.dropped, self.trouble = self.dropped + len(records), reason
        for record in records:
            record.written.set_result(False)

    def _save_states(self) -> None:
        save_states(self.file, self.watch, self._event)
        self._unsaved = 0


def save_states(file: JournalFile, watch: DriftWatch, event: int) -> None:
    """Write the states of the drift tests, which include all rows and all events up to number `event`."""
    file.save_states(watch.states())
    file.save_fact("image", file.last())
    file.save_fact("event", event)


def format_regions(record: Record) -> str | None:
    """Return the regions of an anomalous image as JSON. None: the image is not anomalous."""
    if record.detection is None or record.row.kept != "anomalous":
        return None
    return json.dumps([asdict(region) for region in record.detection.regions])
