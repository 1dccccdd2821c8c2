"""The thread that writes a journal: it updates the drift tests, writes several rows at once, and then their pictures.

Judging only puts a record into a queue, so a slow or full disk does not delay verdicts. Records that cannot be written
are counted as dropped.
"""

import json
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from lit_ad.deploy.alarms import compare_looks_since, phrase_largest_move
from lit_ad.deploy.drift_watch import DriftWatch
from lit_ad.deploy.journal_file import JournalFile, Row
from lit_ad.deploy.pictures import Pictures, encode_picture
from lit_ad.detector.detection import Detection
from lit_ad.errors import UserError

_MAX_WAITING = 10_000  # rows in the queue
MAX_WAITING_BYTES = 256 * 2**20  # bytes of pictures in the queue
_MAX_BATCH = 500  # rows in one transaction
GATHER_SECONDS = 0.5  # wait for more rows if no caller waits: one transaction takes as long as writing many rows
_ROWS_PER_SAVE = 1000  # how often the states of the tests are saved; a start reads the rows since the last save again
_CLOSE_SECONDS = 60.0  # `close` waits this long for the queue to empty
_UNNAMED = 16  # rows whose pictures' names are written together; a kill loses the pictures that have no name yet
COMPRESSING = 0.005  # the part of one core's time that may go into the compression of pictures
_MOST_COMPRESSING = 1.0  # seconds of compression that an idle time may save up


@dataclass
class Record:
    """A row in the queue, and the image for its picture."""

    row: Row
    detection: Detection | None  # None: no picture is kept
    file: bytes | None  # the image file; None: the picture is a PNG of the detection's pixels
    size: int  # bytes of the image in memory
    written: Future[bool] | None = None  # gets True when the row is on disk, False if it was dropped; None: none waits


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
        self._queue: SimpleQueue[Record | None] = SimpleQueue()  # None: the journal is closed
        self._bytes, self._closed, self._counting = 0, False, threading.Lock()
        self._hurry = threading.Event()  # set when a caller waits, so that the writer gathers no more rows
        self._compressing, self._counted = 0.0, time.monotonic()  # seconds of compression that are left, and when
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
            has_room = not self._closed and self._thread.is_alive() and self._queue.qsize() < _MAX_WAITING
            if has_room:
                self._bytes += record.size
                self._queue.put(record)
        if record.written is not None:
            self._hurry.set()
        if not has_room:
            self._drop([record], f"the journal is closed, or {_MAX_WAITING} rows wait for the disk")

    def close(self) -> None:
        """Write the records in the queue, and close the file."""
        with self._counting:
            self._closed = True
            self._queue.put(None)
        self._hurry.set()
        self._thread.join(_CLOSE_SECONDS)

    def _work(self) -> None:
        """Write the records of the queue until it yields None."""
        open_ = True
        while open_:
            batch = [self._queue.get()]
            if batch[0] is not None and batch[0].written is None:
                self._hurry.wait(GATHER_SECONDS)
            self._hurry.clear()
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
                if record.written is not None:
                    record.written.set_result(True)
            for begin in range(0, len(records), _UNNAMED):
                self._save_pictures(records[begin : begin + _UNNAMED], numbers[begin : begin + _UNNAMED])
        with self._counting:
            self._bytes -= sum(record.size for record in records)

    def _store_rows(self, records: list[Record]) -> list[int]:
        """Add the rows to the drift tests, and write rows and alarms in one transaction. Return the rows' numbers.

        Raises:
            UserError: Somebody has removed or moved the file, which the system would go on writing.
        """
        if not self.file.path.is_file():
            raise UserError(f"{self.file.path} was removed or moved: start again, to begin a new journal there")
        rows = [add_regions(record) for record in records]
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

    def _save_pictures(self, records: list[Record], numbers: list[int]) -> None:
        """Write the pictures of rows, and then their names. Count those that cannot be written as dropped."""
        for record, number in zip(records, numbers, strict=True):
            if record.detection is not None:
                self._save_picture(record.detection, record.file, number)
        try:
            self.pictures.flush()
        except Exception as error:  # no error of the journal may stop the judging
            self._drop_pictures(self.pictures.forget_unnamed(), str(error))

    def _save_picture(self, detection: Detection, file: bytes | None, number: int) -> None:
        """Write the picture of row `number`."""
        try:
            compress, begin = self._may_compress(), time.thread_time()
            content, suffix = encode_picture(detection.image, file, compress)
            self._compressing -= time.thread_time() - begin if compress else 0.0
            if not self.pictures.save(number, content, suffix):
                self._drop_pictures(1, "pictures_mib leaves no room for a picture")
        except Exception as error:  # no error of the journal may stop the judging
            self._drop_pictures(1, str(error))

    def _may_compress(self) -> bool:
        """Whether pictures have taken less than their part of the time, so that the next one may be compressed."""
        before, self._counted = self._counted, time.monotonic()
        self._compressing = min(self._compressing + COMPRESSING * (self._counted - before), _MOST_COMPRESSING)
        return self._compressing > 0

    def _drop_pictures(self, count: int, reason: str) -> None:
        with self._counting:
            self.dropped_pictures, self.trouble = self.dropped_pictures + count, reason

    def _drop(self, records: list[Record], reason: str) -> None:
        with self._counting:
            self.dropped, self.trouble = self.dropped + len(records), reason
        for record in records:
            if record.written is not None:
                record.written.set_result(False)

    def _save_states(self) -> None:
        save_states(self.file, self.watch, self._event)
        self._unsaved = 0


def save_states(file: JournalFile, watch: DriftWatch, event: int) -> None:
    """Write the states of the drift tests, which include all rows and all events up to number `event`."""
    file.save_states(watch.states())
    file.save_fact("image", file.last())
    file.save_fact("event", event)


def add_regions(record: Record) -> Row:
    """Return the record's row, with the regions of an anomalous image as JSON."""
    if record.detection is None or record.row.kept != "anomalous":
        return record.row
    return record.row._replace(regions=json.dumps([vars(region) for region in record.detection.regions]))
