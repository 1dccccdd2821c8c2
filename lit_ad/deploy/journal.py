"""The journal of a line: a row for each verdict, pictures of anomalous, borderline and randomly chosen images, and
tests for drift.

Judging only puts a record into a queue; a separate thread writes it. Nothing leaves the machine.
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
from lit_ad.deploy.looks import measure_look
from lit_ad.deploy.pictures import Pictures
from lit_ad.deploy.versions import Versions
from lit_ad.detector.detection import Detection
from lit_ad.detector.detector import Detector
from lit_ad.files import resolve_path
from lit_ad.names import printable

# Seconds between two images whose look (brightness, contrast, sharpness and colour, see looks.py) is measured. So the
# measurement does not slow a fast line down.
LOOK_INTERVAL = 0.2
BORDERLINE = 3  # a nominal image is borderline if its p-value is at most this many times the threshold's


class Journal:
    """Writes a detector's verdicts to DIR/journal.sqlite and DIR/pictures, and tests them for drift.

    Args:
        folder: DIR. An existing journal in DIR is continued.
        detector: The detector that gives the verdicts. If it is not the detector of last time, the drift tests restart.
        settings: What to test, and which pictures to keep.
        source: The name of the camera or line, unless `record` names another one.

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
        self._last_look = 0.0  # time of the last image whose look (see LOOK_INTERVAL) was measured
        self.file = JournalFile(resolve_path(folder), alone=True)
        try:
            pictures = Pictures(self.file, int(settings.pictures_mib * 2**20))
            with self.file.transaction():
                self.version = Versions(self.file).register(detector.card)
                self._resume_tests()
        except BaseException:
            self.file.close()  # so that another journal can be opened there
            raise
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
        category: str | None = None,
        written: Future[bool] | None = None,
    ) -> None:
        """Put a verdict into the queue of the writing thread, and return at once.

        Args:
            detection: The verdict.
            seconds: The time that judging took.
            name: The name of the image.
            source: The name of the camera or line. None: the journal's own source.
            file: The image file. If a picture is kept, it is this file; None: a PNG of the pixels.
            category: The category that the client named. The row has it also if the detector has no thresholds at all.
            written: Gets True when the row is on disk, and False if the row was dropped. None: nobody waits for the
                row, so the writer gathers several rows before it writes.
        """
        sampled = random.random() < self.sample
        p_value, anomalous = detection.p_value, detection.anomalous
        kept = _reason_to_keep(detection, p_value, anomalous) or ("sample" if sampled else None)
        size = 0 if kept is None else len(file) if file is not None else detection.image.nbytes
        now = time.time()
        measure = abs(now - self._last_look) >= LOOK_INTERVAL
        self._last_look = now if measure else self._last_look
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
            look=measure_look(detection.image) if measure else None,
            version=self.version,
        )
        self.writer.put(Record(row, None if kept is None else detection, file, size, written))

    def alarms(self) -> list[str]:
        """Return the drift alarms that nobody has reset, in words."""
        return self.watch.alarms()

    @property
    def dropped(self) -> int:
        """The number of rows that could not be written."""
        return self.writer.dropped

    @property
    def dropped_pictures(self) -> int:
        """The number of pictures that could not be written."""
        return self.writer.dropped_pictures

    @property
    def trouble(self) -> str:
        """Why the last row or picture was dropped; "" if none was."""
        return self.writer.trouble

    def description(self) -> dict[str, Any]:
        """Return the journal's file, its dropped rows and its drift tests, as plain values for JSON."""
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
        """Write the waiting records, and close the file."""
        self.writer.close()

    def _resume_tests(self) -> None:
        """Continue the drift tests that the journal saved; restart them if the detector or a setting has changed."""
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


def _reason_to_keep(detection: Detection, p_value: float | None, anomalous: bool | None) -> str | None:
    """Return why the verdict makes the journal keep a picture: "anomalous" or "borderline". None: no reason."""
    if detection.decision is None or p_value is None:
        return None
    if anomalous:
        return "anomalous"
    limit = BORDERLINE * detection.decision.operating_point(detection.category).p_value
    return "borderline" if p_value <= limit else None
