"""The images of a feed are judged as they come; each verdict goes to the journal, the sinks and the live picture."""

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
from lit_ad.deploy.answers import as_json
from lit_ad.deploy.journal import Journal
from lit_ad.detector.detection import Detection
from lit_ad.detector.detector import TIMEOUT, Detector
from lit_ad.detector.stream import WORKERS, in_order
from lit_ad.errors import UserError
from lit_ad.line.feed import Arrival, Feed
from lit_ad.line.sinks.sink import Sink
from lit_ad.names import printable
from lit_ad.threads import enter_stage

TOLD = 30.0  # seconds from one word about back-pressure to the next
LOOKED = 1.0  # seconds from one look at troubles and alarms to the next


@dataclass(frozen=True)
class Outcome:
    """What became of an image."""

    name: str
    detection: Detection | None  # None: it could not be judged
    error: str = ""
    seconds: float = 0.0


class Watching:
    """Judges what a feed gives.

    Args:
        detector: The detector.
        feed: Where images come from.
        category: Of a model for many products: whose thresholds count.
        journal: Where each verdict is written to; its source is the feed's name.
        sinks: Where messages go to, by the sinks' names.
        anomalous_only: Whether nominal verdicts are no messages.
        say: Takes sentences about back-pressure, trouble and alarms.
        source: A camera or a line, in messages. None: the journal's.
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
        self._told = 0.0
        self._judged_then = self._passed_over_then = 0
        self._behind, self._trouble = False, ""
        self._alarms = set(() if journal is None else journal.alarms())

    def __iter__(self) -> Iterator[Outcome]:
        """Yield what became of each image, in the order in which they came, until the feed ends."""
        shared, category = self.detector.shared, self.category

        def work(group: list[Arrival], first: int) -> list[Outcome]:
            arrival, begin = group[0], time.perf_counter()
            try:
                enter_stage(f"reading {arrival.name}")
                content = None if arrival.file is None else read(arrival.file)
                image: Any = arrival.frame if content is None else content
                detection: Detection = shared(image, category, bgr=content is None)
            except (UserError, OSError) as error:
                again = self.feed.comes_again(arrival)
                return [] if again else [Outcome(arrival.name, None, str(error))]
            seconds = time.perf_counter() - begin
            if self.journal is not None:
                self.journal.record(detection, seconds, arrival.name, file=content, awaited=False)
            return [Outcome(arrival.name, detection, "", seconds)]

        self._told = time.monotonic()
        ended = threading.Event()
        looking = threading.Thread(target=self._look_until, args=(ended,), name="looking", daemon=True)
        looking.start()
        try:
            for outcome in in_order(work, iter(self.feed), 1, TIMEOUT, None):
                self._count(outcome)
                yield outcome
        finally:
            ended.set()
            looking.join()
            self._look()

    def status(self) -> dict[str, Any]:
        """How the line stands, as plain values for JSON."""
        return {
            "judged": self.judged,
            "anomalous": self.anomalous,
            "refused": self.refused,
            "passed_over": self.feed.passed_over,
            "waiting": self.feed.waiting(),
            "trouble": self.feed.trouble or None,
            "sinks": {name: sink.status() for name, sink in self.sinks.items()},
        }

    def summary(self) -> str:
        """What was done, and all that was lost, in one sentence."""
        lost = {
            "refused": self.refused,
            "left unjudged": self.feed.waiting(),
            "passed over, since the camera is faster than the detector": self.feed.passed_over,
            "not written to the journal": 0 if self.journal is None else self.journal.dropped,
            **{f"not delivered by {name}": sink.status()["dropped"] for name, sink in self.sinks.items()},
        }
        losses = "".join(f", {count} {what}" for what, count in lost.items() if count)
        return f"{format_count(self.judged, 'image')} judged, {self.anomalous} anomalous{losses}"

    def _count(self, outcome: Outcome) -> None:
        detection = outcome.detection
        if detection is None:
            self.refused += 1
            self.say(f"not judged: {printable(outcome.name)}: {outcome.error}")
            return self._send({"kind": "refused", "name": printable(outcome.name), "error": outcome.error})
        self.judged += 1
        self.anomalous += bool(detection.anomalous)
        if detection.anomalous or not self.anomalous_only:
            told = {"kind": "verdict", "name": printable(outcome.name), **as_json(detection)}
            self._send({**told, "seconds": round(outcome.seconds, 6)})
        return None

    def _send(self, message: dict[str, Any]) -> None:
        if not self.sinks:
            return
        text = json.dumps(
            {"time": datetime.now(UTC).isoformat(), "source": printable(self.source), **message}, allow_nan=False
        )
        for sink in self.sinks.values():
            sink.send(text)

    def _look_until(self, ended: threading.Event) -> None:
        while not ended.wait(LOOKED):
            self._look()

    def _look(self) -> None:
        """Say what has gone wrong or well since the last look."""
        for alarm in [] if self.journal is None else self.journal.alarms():
            if alarm not in self._alarms:
                self._alarms.add(alarm)
                self.say(f"drift: {alarm}")
                self._send({"kind": "alarm", "text": alarm})
        troubles = [self.feed.trouble, *(str(sink.status()["trouble"] or "") for sink in self.sinks.values())]
        trouble = "; ".join(text for text in troubles if text)
        if trouble != self._trouble:
            self._trouble = trouble
            self.say(trouble or "what was wrong is well again")
        if (now := time.monotonic()) - self._told >= TOLD:
            self._tell_pressure(now)

    def _tell_pressure(self, now: float) -> None:
        seconds, judged = now - self._told, self.judged - self._judged_then
        passed_over, waiting = self.feed.passed_over - self._passed_over_then, self.feed.waiting()
        rate = f"{judged / seconds:.3g} images/s are judged"
        if passed_over:
            self.say(
                f"judging is slower than the camera: {passed_over} frames were passed over in {seconds:.0f} s, and "
                f"{rate}; --feed.every asks for fewer"
            )
        elif waiting > 2 * WORKERS:
            self.say(f"judging is behind: {waiting} images wait, and {rate}")
        elif self._behind:
            self.say("judging has caught up")
        self._behind = waiting > 2 * WORKERS
        self._told, self._judged_then, self._passed_over_then = now, self.judged, self.feed.passed_over


def read(file: Path) -> bytes:
    """The content of a file. Raises OSError."""
    try:
        return file.read_bytes()
    except ValueError as error:  # a zero byte in the name, as of `find -print0`
        raise OSError(f"{printable(str(file))} is no path: {error}") from error
