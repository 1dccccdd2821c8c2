"""Images of a feed are judged, recorded and sent as messages; losses are counted and reported."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lit_ad.deploy.journal import Journal
from lit_ad.deploy.journal_settings import JournalSettings
from lit_ad.detector.card import Card
from lit_ad.detector.detector import Detector
from lit_ad.image.view import View
from lit_ad.line import watching as watching_module
from lit_ad.line.feed import Arrival
from lit_ad.line.paths import PathFeed
from lit_ad.line.watching import Watching
from lit_ad.names import printable
from tests.deploy.test_journal import DECISION, brightness, detector, rows


class Messages:
    """A sink that keeps its messages."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def send(self, text: str) -> None:
        self.sent.append(json.loads(text))

    def close(self) -> None:
        pass

    def status(self) -> dict[str, Any]:
        return {"sent": len(self.sent), "dropped": 0, "waiting": 0, "trouble": None}


class Frames:
    """A camera whose frames have the given shades of red."""

    def __init__(self, shades: list[int]) -> None:
        self.shades, self.passed_over, self.trouble = shades, 0, ""

    def __iter__(self) -> Iterator[Arrival]:
        for number, shade in enumerate(self.shades, 1):
            self.passed_over += 3
            yield Arrival(f"frame {number}", frame=np.full((32, 32, 3), (0, 0, shade), np.uint8))  # red

    def count_waiting(self) -> int:
        return 0

    def try_again(self, arrival: Arrival) -> bool:
        return False

    def close(self) -> None:
        pass


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "in").mkdir()
    names = []
    for number, shade in enumerate((200, 10, 94)):
        names.append(str(tmp_path / "in" / f"{number}.png"))
        Image.new("RGB", (32, 32), (shade, 0, 0)).save(names[-1])
    (tmp_path / "in/broken.png").write_bytes(Path(names[0]).read_bytes()[:60])
    return [*names, str(tmp_path / "in/broken.png"), str(tmp_path / "in/gone.png"), "zero\0byte.png"]


def test_files_are_judged_recorded_and_sent(files: list[str], tmp_path: Path) -> None:
    messages, sentences = Messages(), list[str]()
    with Journal(tmp_path / "journal", detector(), JournalSettings(sample=0), "line 1") as journal:
        watching = Watching(
            detector(), PathFeed(files), None, journal, {"kept": messages}, say=sentences.append, anomalous_only=False
        )
        outcomes = list(watching)
    assert [outcome.detection.score if outcome.detection else None for outcome in outcomes] == [
        200,
        10,
        94,
        None,
        None,
        None,
    ]
    written = rows(tmp_path / "journal")
    assert sorted((row["name"], row["score"], row["source"]) for row in written) == [
        (name, score, "line 1") for name, score in zip(files, (200, 10, 94), strict=False)
    ]
    (kept,) = [row for row in written if row["score"] == 200]
    assert (tmp_path / "journal/pictures" / kept["picture"]).read_bytes() == Path(files[0]).read_bytes()
    assert [(told["kind"], told["name"], told.get("anomalous")) for told in messages.sent] == [
        *[("verdict", name, name == files[0]) for name in files[:3]],
        *[("refused", printable(name), None) for name in files[3:]],
    ]
    assert messages.sent[0]["source"] == "line 1" and messages.sent[0]["regions"][0]["box"] == [0, 0, 32, 32]
    assert len(sentences) == 3 and sentences[0].startswith(f"not judged: {files[3]}: ")
    assert watching.summarize() == "3 images judged, 1 anomalous, 3 refused"
    assert watching.status()["sinks"]["kept"]["sent"] == 6


def test_frames_keep_their_colours() -> None:
    messages = Messages()
    watching = Watching(detector(), Frames([200, 10]), sinks={"kept": messages}, anomalous_only=True)
    assert [outcome.detection.score for outcome in watching if outcome.detection] == [200, 10]
    assert [told["name"] for told in messages.sent] == ["frame 1"]
    assert "6 passed over, because the camera is faster than the detector" in watching.summarize()


def test_an_image_that_is_not_written_yet_comes_again(files: list[str]) -> None:
    feed = PathFeed(files[3:])
    feed.try_again = lambda arrival: True  # type: ignore[method-assign]
    watching = Watching(detector(), feed, say=lambda sentence: pytest.fail(sentence))
    assert list(watching) == [] and watching.refused == 0


def test_slow_judging_and_alarms_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching_module, "REPORT_INTERVAL", 0.3)
    monkeypatch.setattr(watching_module, "CHECK_INTERVAL", 0.1)

    def slow(pixels: Any) -> Any:
        time.sleep(0.02)
        return brightness(pixels)

    slow_detector = Detector(slow, Card("lit_ad.methods.STFPM", View(32), DECISION))
    messages, sentences = Messages(), list[str]()
    with Journal(tmp_path, slow_detector, JournalSettings(sample=0, anomalous_rate=0.01)) as journal:
        feed = Frames([200] * 100)
        feed.trouble = "the lens is dirty"
        list(Watching(slow_detector, feed, None, journal, {"kept": messages}, say=sentences.append))
    text = "\n".join(sentences)
    assert "the lens is dirty" in text
    assert "judging is slower than the camera: " in text and "use --feed.every to judge fewer frames" in text
    (alarm,) = [told["text"] for told in messages.sent if told["kind"] == "alarm"]
    assert alarm.startswith("more images are judged anomalous than the stated 1 %") and f"drift: {alarm}" in text


def test_rows_that_are_not_written_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching_module, "REPORT_INTERVAL", 0.0)
    monkeypatch.setattr(watching_module, "CHECK_INTERVAL", 60.0)  # only the check at the end
    told: list[str] = []
    journal = Journal(tmp_path, detector())
    journal.close()
    assert len(list(Watching(detector(), Frames([10, 20]), journal=journal, say=told.append))) == 2
    assert any(line.startswith("2 verdicts were not written to the journal in ") for line in told)
    assert any(line.endswith("s: the journal is closed, or 10000 rows wait for the disk") for line in told)


def test_waiting_files_are_reported(files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching_module, "REPORT_INTERVAL", 0.0)
    feed, sentences = PathFeed(files[:1]), list[str]()
    waiting = iter([0, 50, 0])
    feed.count_waiting = lambda: next(waiting)  # type: ignore[method-assign]
    watching = Watching(detector(), feed, say=sentences.append)
    for _ in range(3):
        time.sleep(0.01)
        watching._check()
    assert sentences[0].startswith("judging is behind: 50 images wait, and 0 images/s")
    assert sentences[1:] == ["judging has caught up"]
