"""The journal of a line: what was judged, pictures of what matters, and whether the images still come as they did.

Judging only puts a record into a queue; a thread of its own writes. Nothing leaves the machine.
"""

import random
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from lit_ad.deploy.drift_watch import DriftWatch
from lit_ad.deploy.journal_file import JournalFile, Row
from lit_ad.deploy.journal_settings import SETTINGS, JournalSettings
from lit_ad.deploy.journal_writer import Record, Writer, save_states
from lit_ad.deploy.looks import look
from lit_ad.deploy.pictures import Pictures
from lit_ad.deploy.versions import Versions
from lit_ad.detector.detection import Detection
from lit_ad.detector.detector import Detector
from lit_ad.files import resolve_path
from lit_ad.names import printable

LOOKS_APART = 0.01  # seconds between two images that are looked at, so that a fast line is not slowed down by it
BORDERLINE = 3  # times the p-value of the threshold: up to there, a nominal verdict is doubtful


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
        decision = detector.card.decision
        self.watch = DriftWatch(decision, settings.delta, settings.anomalous_rate)
        self.sample, self.source = settings.sample, source
        self._looked = 0.0
        self.file = JournalFile(resolve_path(folder), alone=True)
        pictures = Pictures(self.file, int(settings.pictures_mib * 2**20))
        with self.file.transaction():
            self.version = Versions(self.file).register(detector.card)
            self._take_up()
        self.writer = Writer(self.file, pictures, self.watch)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def record(
        self,
        detection: Detection,
        seconds: float,
        name: str = "",
        source: str | None = None,
        file: bytes | None = None,
        awaited: bool = True,
        category: str | None = None,
    ) -> Future[bool]:
        """Have a verdict written. Return at once.

        Args:
            detection: The verdict.
            seconds: That it took.
            name: Of the image.
            source: A camera or a line.
            file: The image file, to be kept as it is where a picture is kept.
            awaited: Whether somebody waits for what is returned; else several rows are written together.
            category: That the image was said to be of, where the detector knows none of that name: it stays apart from
                the images of others.

        Returns:
            Whether the row is on disk, when that is known.
        """
        sampled = random.random() < self.sample
        p_value, anomalous = detection.p_value, detection.anomalous
        kept = _why_keep(detection, p_value, anomalous) or ("sample" if sampled else None)
        size = 0 if kept is None else len(file) if file is not None else detection.image.nbytes
        now = time.time()
        looks = abs(now - self._looked) >= LOOKS_APART
        self._looked = now if looks else self._looked
        row = Row(
            time=now,
            source=printable(self.source if source is None else source),
            category=detection.category or printable(category or ""),
            name=printable(name),
            score=detection.score,
            p_value=p_value,
            verdict={None: None, True: "anomalous", False: "nominal"}[anomalous],
            latency=seconds,
            kept=kept,
            sampled=sampled,
            regions=None,
            look=look(detection.image) if looks else None,
            version=self.version,
        )
        record = Record(row, None if kept is None else detection, file, size, Future[bool](), awaited)
        self.writer.put(record)
        return record.written

    def alarms(self) -> list[str]:
        """The alarms of drift that stand, in words."""
        return self.watch.alarms()

    @property
    def dropped(self) -> int:
        """Rows that could not be written."""
        return self.writer.dropped

    @property
    def dropped_pictures(self) -> int:
        """Pictures that could not be written."""
        return self.writer.dropped_pictures

    @property
    def trouble(self) -> str:
        """What the last row or picture was dropped for."""
        return self.writer.trouble

    def description(self) -> dict[str, Any]:
        """Where the journal is, what was dropped, and the tests for drift, as plain values for JSON."""
        return {
            "file": str(self.file.path),
            "version": self.version,
            "waiting": self.writer.waiting,
            "dropped": self.dropped,
            "dropped_pictures": self.dropped_pictures,
            "trouble": self.trouble or None,
            "drift": self.watch.description(),
        }

    def close(self) -> None:
        """Write what waits, and close the file."""
        self.writer.close()

    def _take_up(self) -> None:
        """Go on with the tests of the journal."""
        file, fingerprint = self.file, self.watch.fingerprint()
        if file.fact("tested against") == fingerprint:
            self.watch.load(file)
        else:
            if file.fact("tested against") is not None:
                file.add_event("reset", None, None, "another detector, decision, delta or anomalous_rate")
            file.forget_states()
            file.save_fact("tested against", fingerprint)
        events = file.events()
        save_states(file, self.watch, events[-1].id if events else 0)


def _why_keep(detection: Detection, p_value: float | None, anomalous: bool | None) -> str | None:
    """Of KEPT, why the verdict alone has an image's picture kept; None: it does not."""
    if detection.decision is None or p_value is None:
        return None
    if anomalous:
        return "anomalous"
    limit = BORDERLINE * detection.decision.operating_point(detection.category).p_value
    return "borderline" if p_value <= limit else None
