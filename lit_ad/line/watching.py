"""Judge the images of a feed as they come, and send each verdict to the journal and to the sinks."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lit_ad.counts import format_count
from lit_ad.deploy.answers import describe_detection
from lit_ad.deploy.journal import Journal
from lit_ad.detector.detection import Detection
from lit_ad.detector.detector import TIMEOUT, Detector
from lit_ad.detector.stream import WORKERS, run_in_order
from lit_ad.errors import UserError
from lit_ad.line.feed import Arrival, Feed
from lit_ad.line.sinks.sink import Sink
from lit_ad.names import printable
from lit_ad.threads import enter_stage

REPORT_INTERVAL = 30.0  # seconds between two reports that judging is too slow
CHECK_INTERVAL = 1.0  # seconds between two checks for troubles and alarms


@dataclass(frozen=True)
class Outcome:
    """The result for one image: its verdict, or why it could not be judged."""

    name: str
    detection: Detection | None  # None: the image could not be judged
    error: str = ""  # why it could not be judged
    seconds: float = 0.0  # the time that judging took


class Watching:
    """Judges the images of a feed. Iterate over it to run it.

    Args:
        detector: The detector.
        feed: The source of the images.
        category: The category of all images, whose threshold decides. None: one threshold for all categories.
        journal: The journal that gets each verdict. None: there is no journal.
        sinks: The sinks that get messages, by name.
        anomalous_only: Whether nominal verdicts are left out of the messages.
        say: Called with sentences about slow judging, trouble and alarms.
        source: The name of the camera or line in messages. None: the journal's source.
    """

    def __init__(
        self,
        detector: Detector,
        feed: Feed,
        category: str | None = None,
        journal: Journal | None = None,
        sinks: Mapping[str, Sink] | None = None,
        anomalous_only: bool = False,
        say: Callable[[str], None] = lambda sentence: print(sentence, file=sys.stderr, flush=True),
        source: str | None = None,
    ) -> None:
        self.detector, self.feed, self.category, self.journal = detector, feed, category, journal
        self.sinks, self.anomalous_only, self.say = sinks or {}, anomalous_only, say
        self.source = source if source is not None else "" if journal is None else journal.source
        self.judged = self.anomalous = self.refused = 0
        self._last_report = 0.0  # time.monotonic() of the last report on the speed
        self._judged_before = self._passed_over_before = self._dropped_before = 0  # counts at the last report
        self._behind, self._trouble = False, ""
        self._alarms = set(() if journal is None else journal.alarms())

    def __iter__(self) -> Iterator[Outcome]:
        """Yield the outcome of each image, in the order of the feed, until the feed ends."""
        shared, category = self.detector.shared, self.category

        def work(group: list[Arrival], first: int) -> list[Outcome]:
            arrival, begin = group[0], time.perf_counter()
            try:
                enter_stage(f"reading {arrival.name}")
                content = None if arrival.file is None else _read_file(arrival.file)
                image: Any = arrival.frame if content is None else content
                detection: Detection = shared(image, category, bgr=content is None)
            except (UserError, OSError) as error:
                again = self.feed.try_again(arrival)
                return [] if again else [Outcome(arrival.name, None, str(error))]
            seconds = time.perf_counter() - begin
            if self.journal is not None:
                self.journal.record(detection, seconds, arrival.name, file=content)
            return [Outcome(arrival.name, detection, "", seconds)]

        self._last_report = time.monotonic()
        ended = threading.Event()
        checking = threading.Thread(target=self._check_until, args=(ended,), name="checking", daemon=True)
        checking.start()
        try:
            for outcome in run_in_order(work, iter(self.feed), 1, TIMEOUT, None):
                self._count(outcome)
                yield outcome
        finally:
            ended.set()
            checking.join()
            self._check()

    def status(self) -> dict[str, Any]:
        """Return the counts of images, the trouble of the source, and the status of each sink, for JSON."""
        return {
            "judged": self.judged,
            "anomalous": self.anomalous,
            "refused": self.refused,
            "passed_over": self.feed.passed_over,
            "waiting": self.feed.count_waiting(),
            "trouble": self.feed.trouble or None,
            "sinks": {name: sink.status() for name, sink in self.sinks.items()},
        }

    def summarize(self) -> str:
        """Return the counts of judged images and of all losses, in one sentence."""
        lost = {
            "refused": self.refused,
            "left unjudged": self.feed.count_waiting(),
            "passed over, because the camera is faster than the detector": self.feed.passed_over,
            "not written to the journal": 0 if self.journal is None else self.journal.dropped,
            **{f"not delivered by {name}": sink.status()["dropped"] for name, sink in self.sinks.items()},
        }
        losses = "".join(f", {count} {what}" for what, count in lost.items() if count)
        return f"{format_count(self.judged, 'image')} judged, {self.anomalous} anomalous{losses}"

    def _count(self, outcome: Outcome) -> None:
        """Count an outcome, and send it as a message."""
        detection = outcome.detection
        if detection is None:
            self.refused += 1
            self.say(f"not judged: {printable(outcome.name)}: {outcome.error}")
            return self._send({"kind": "refused", "name": printable(outcome.name), "error": outcome.error})
        self.judged += 1
        self.anomalous += bool(detection.anomalous)
        if detection.anomalous or not self.anomalous_only:
            message = {"kind": "verdict", "name": printable(outcome.name), **describe_detection(detection)}
            self._send({**message, "seconds": round(outcome.seconds, 6)})
        return None

    def _send(self, message: dict[str, Any]) -> None:
        """Send a message to all sinks, as one line of JSON with the time and the source."""
        if not self.sinks:
            return
        text = json.dumps(
            {"time": datetime.now(UTC).isoformat(), "source": printable(self.source), **message}, allow_nan=False
        )
        for sink in self.sinks.values():
            sink.send(text)

    def _check_until(self, ended: threading.Event) -> None:
        while not ended.wait(CHECK_INTERVAL):
            self._check()

    def _check(self) -> None:
        """Report new alarms, and troubles that began or ended since the last check."""
        for alarm in [] if self.journal is None else self.journal.alarms():
            if alarm not in self._alarms:
                self._alarms.add(alarm)
                self.say(f"drift: {alarm}")
                self._send({"kind": "alarm", "text": alarm})
        troubles = [self.feed.trouble, *(str(sink.status()["trouble"] or "") for sink in self.sinks.values())]
        trouble = "; ".join(text for text in troubles if text)
        if trouble != self._trouble:
            self._trouble = trouble
            self.say(trouble or "the trouble is over")
        if (now := time.monotonic()) - self._last_report >= REPORT_INTERVAL:
            self._report_speed(now)

    def _report_speed(self, now: float) -> None:
        """Report if judging has been slower than the source since the last report, or has caught up; and if verdicts
        were not written to the journal."""
        seconds, judged = now - self._last_report, self.judged - self._judged_before
        passed_over, waiting = self.feed.passed_over - self._passed_over_before, self.feed.count_waiting()
        rate = f"{judged / seconds:.3g} images/s are judged"
        if passed_over:
            self.say(
                f"judging is slower than the camera: {passed_over} frames were passed over in {seconds:.0f} s, and "
                f"{rate}; use --feed.every to judge fewer frames"
            )
        elif waiting > 2 * WORKERS:
            self.say(f"judging is behind: {waiting} images wait, and {rate}")
        elif self._behind:
            self.say("judging has caught up")
        dropped = 0 if self.journal is None else self.journal.dropped
        if self.journal is not None and dropped > self._dropped_before:
            count = format_count(dropped - self._dropped_before, "verdict was", "verdicts were")
            self.say(f"{count} not written to the journal in {seconds:.0f} s: {self.journal.trouble}")
        self._dropped_before = dropped
        self._behind = waiting > 2 * WORKERS
        self._last_report = now
        self._judged_before, self._passed_over_before = self.judged, self.feed.passed_over


def _read_file(file: Path) -> bytes:
    """Return the content of a file. Raises OSError, also if the path is not a valid one."""
    try:
        return file.read_bytes()
    except ValueError as error:  # a zero byte in the name, as from `find -print0`
        raise OSError(f"{printable(str(file))} is not a valid path: {error}") from error
