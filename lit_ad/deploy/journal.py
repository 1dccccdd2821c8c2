"""The journal of a line: what was judged, pictures of what matters, and whether the images still come as they did.

Judging only puts a record into a queue; a thread of its own writes, several rows in one transaction, so that a slow or
full disk holds nothing up. What cannot be written is counted as dropped. Nothing leaves the machine.
"""

import json
import random
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any

from lit_ad.deploy.drift_watch import DriftWatch
from lit_ad.deploy.journal_file import JournalFile, Row
from lit_ad.deploy.pictures import Pictures, encoded
from lit_ad.detector.detector import Detection, Detector
from lit_ad.detector.drift import DELTA
from lit_ad.errors import check_number
from lit_ad.files import resolve_path
from lit_ad.names import printable

WAITING = 10_000  # rows that wait to be written
WAITING_BYTES = 256 * 2**20  # of pictures that wait
TOGETHER = 500  # rows of a transaction
SAVED = 1000  # rows after which the states of the tests are saved; a start reads the rows since then again
BORDERLINE = 3  # times the p-value of the threshold: up to there, a nominal verdict is doubtful
PATIENCE = 30.0  # seconds that the end waits for what is still to be written


@dataclass
class Record:
    """A row on its way, and what its picture is made of."""

    row: Row
    detection: Detection | None  # None: without a picture
    file: bytes | None  # the image file as it came; None: a PNG is made of the pixels
    size: int  # bytes that it holds in memory
    written: Future[bool]


@dataclass(frozen=True)
class JournalSettings:
    """What of a line is tested and kept.

    Args:
        delta: The probability of a false alarm of drift, ever, of each test.
        anomalous_rate: The share of images, defects and false alarms together, that may be called anomalous; an alarm
            says that there are more. None: this is not tested.
        pictures_mib: The bound of all pictures together: of all anomalous images, of the borderline ones, and of a
            random sample. The oldest nominal ones of the sample go first.
        sample: The share of images in that sample.

    Raises:
        UserError: A bound or a share that makes no sense.
    """

    delta: float = DELTA
    anomalous_rate: float | None = None
    pictures_mib: float = 1024
    sample: float = 0.01

    def __post_init__(self) -> None:
        if self.anomalous_rate is not None:
            check_number("anomalous_rate", self.anomalous_rate, least=0, most=0.999999, above=True)
        check_number("pictures_mib", self.pictures_mib, least=0)
        check_number("sample", self.sample, least=0, most=1)


SETTINGS = JournalSettings()


class Journal:
    """Writes what a detector says to DIR/journal.sqlite and DIR/pictures, and tests it for drift.

    Args:
        folder: DIR. Where it has a journal, that one goes on.
        detector: Whose verdicts these are; with another one, the tests for drift begin anew.
        settings: What is tested and kept.
        source: A camera or a line, where `record` names none.

    Raises:
        UserError: The journal cannot be opened, or another process writes to it.

    Example:
        with Journal("line-1", detector) as journal:
            for detection in detector.stream(paths, journal=journal):
                print(detection.anomalous, journal.alarms())
    """

    def __init__(
        self,
        folder: str | Path,
        detector: Detector,
        settings: JournalSettings = SETTINGS,
        source: str = "",
    ) -> None:
        self.watch = DriftWatch(detector.card.decision, settings.delta, settings.anomalous_rate)
        self.sample, self.source = settings.sample, source
        self.dropped = self.dropped_pictures = 0
        self.trouble = ""  # what the last one was dropped for
        self.file = JournalFile(resolve_path(folder), alone=True)
        self.pictures = Pictures(self.file, int(settings.pictures_mib * 2**20))
        self._queue: Queue[Record | None] = Queue(WAITING)
        self._bytes, self._counting = 0, threading.Lock()
        self._saved = self._event = 0  # rows since the states were saved; the last event that was heeded
        self._take_up()
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def record(
        self, detection: Detection, seconds: float, name: str = "", source: str | None = None, file: bytes | None = None
    ) -> Future[bool]:
        """Have a verdict written. Return at once.

        Args:
            detection: The verdict.
            seconds: That it took.
            name: Of the image.
            source: A camera or a line.
            file: The image file, to be kept as it is where a picture is kept.

        Returns:
            Whether the row is on disk, when that is known.
        """
        sampled = random.random() < self.sample
        kept = why_keep(detection) or ("sample" if sampled else None)
        size = 0 if kept is None else len(file) if file is not None else detection.image.nbytes
        row = Row(
            time=time.time(),
            source=printable(self.source if source is None else source),
            category=detection.category or "",
            name=printable(name),
            score=detection.score,
            p_value=detection.p_value,
            verdict=None
            if detection.decision is None
            else detection.decision.verdict(detection.score, detection.category),
            latency=seconds,
            kept=kept,
            sampled=sampled,
            regions=None,
        )
        written = Future[bool]()
        with self._counting:
            fits = self._bytes + size <= WAITING_BYTES
            self.dropped_pictures += not fits
            self._bytes += size if fits else 0
        record = Record(row, None if kept is None or not fits else detection, file, size if fits else 0, written)
        try:
            if not self._thread.is_alive():
                raise Full
            self._queue.put_nowait(record)
        except Full:
            with self._counting:
                self._bytes -= record.size
            self._drop([record], f"the journal is closed, or {WAITING} rows wait for the disk")
        return written

    def alarms(self) -> list[str]:
        """The alarms of drift that stand, in words."""
        return self.watch.alarms()

    def description(self) -> dict[str, Any]:
        """Where the journal is, what was dropped, and the tests for drift, as plain values for JSON."""
        return {
            "file": str(self.file.path),
            "waiting": self._queue.qsize(),
            "dropped": self.dropped,
            "dropped_pictures": self.dropped_pictures,
            "trouble": self.trouble or None,
            "drift": self.watch.description(),
        }

    def close(self) -> None:
        """Write what waits, and close the file."""
        if not self._thread.is_alive():
            return
        with suppress(Full):
            self._queue.put(None, timeout=PATIENCE)
        self._thread.join(PATIENCE)

    def _take_up(self) -> None:
        """Go on with the tests of the journal."""
        file, fingerprint = self.file, self.watch.fingerprint()
        with file.transaction():
            if file.fact("tested against") == fingerprint:
                self.watch.load(file)
            else:
                if file.fact("tested against") is not None:
                    file.add_event("reset", None, None, "another detector, decision, delta or anomalous_rate")
                file.forget_states()
                file.save_fact("tested against", fingerprint)
            events = file.events()
            self._event = events[-1].id if events else 0
            self._save_states()

    def _work(self) -> None:
        """Write records until a None comes."""
        going = True
        while going:
            batch = [self._queue.get()]
            with suppress(Empty):
                while len(batch) < TOGETHER and batch[-1] is not None:
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
            alarms = [(row, words) for row in rows for words in self.watch.update(row)]
            numbers = self.file.insert(rows)
            for row, words in alarms:
                self.file.add_event("alarm", row.source, row.category, words)
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
        self.file.save_states(self.watch.states())
        self.file.save_fact("image", self.file.last())
        self.file.save_fact("event", self._event)
        self._saved = 0


def why_keep(detection: Detection) -> str | None:
    """Of KEPT, why the verdict alone has an image's picture kept; None: it does not."""
    if detection.decision is None or detection.p_value is None:
        return None
    if detection.anomalous:
        return "anomalous"
    limit = BORDERLINE * detection.decision.operating_point(detection.category).p_value
    return "borderline" if detection.p_value <= limit else None


def regions_of(record: Record) -> str | None:
    """The regions of an anomalous image, as JSON."""
    if record.detection is None or record.row.kept != "anomalous":
        return None
    return json.dumps([asdict(region) for region in record.detection.regions])
