"""The journal has each verdict, also after a kill and with a full disk, and continues its drift tests."""

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lit_ad.deploy.journal import BORDERLINE, Journal
from lit_ad.deploy.journal_file import JournalFile
from lit_ad.deploy.journal_settings import JournalSettings
from lit_ad.detector.card import Card
from lit_ad.detector.decision import Decision
from lit_ad.detector.detection import Detection
from lit_ad.detector.detector import Detector
from lit_ad.errors import UserError
from lit_ad.image.view import View

DECISION = Decision({"": np.arange(1.0, 100.0)}, {"": np.arange(1.0, 100.0)}, {"": np.ones(9)}, false_alarm=0.05)
PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)


def brightness(pixels: Any) -> tuple[Any, Any]:
    """A network whose map is the red channel, and whose score is the map's maximum."""
    maps = pixels[:, :1].astype(np.float32)
    return maps, maps.max((1, 2, 3))


def detector(decision: Decision | None = DECISION) -> Detector:
    return Detector(brightness, Card("lit_ad.methods.STFPM", View(32), decision))


def detection(score: float, decision: Decision | None = DECISION) -> Detection:
    return Detection(PIXELS, score, np.full((32, 32), score, np.float32), (0, 0, 32, 32), decision)


def write(journal: Journal, found: Detection, name: str = "", file: bytes | None = None) -> bool:
    """Record a verdict, wait for its row, and return whether it is on disk."""
    written = Future[bool]()
    journal.record(found, 0.1, name, file=file, written=written)
    return written.result(60)


def rows(folder: Path) -> list[dict[str, Any]]:
    connection = sqlite3.connect(folder / "journal.sqlite")
    connection.row_factory = sqlite3.Row
    return [dict(row) for row in connection.execute("SELECT * FROM images ORDER BY id")]


def events(folder: Path) -> list[tuple[str, str]]:
    return [
        (kind, reason)
        for kind, reason in sqlite3.connect(folder / "journal.sqlite").execute("SELECT kind, reason FROM events")
    ]


def test_each_verdict_of_a_stream_has_a_row(tmp_path: Path) -> None:
    images = [np.full((32, 32, 3), value, np.uint8) for value in (200, 10, 94)] + [PIXELS]
    with Journal(tmp_path, detector(), JournalSettings(sample=0), "camera 1") as journal:
        found = list(detector().stream(images, journal=journal))
    written = {row["score"]: row for row in rows(tmp_path)}
    assert len(written) == len(images)
    for each in found:
        row = written[each.score]
        assert (row["p_value"], row["verdict"]) == (each.p_value, "anomalous" if each.anomalous else "nominal")
        assert row["source"] == "camera 1" and row["category"] == "" and 0 < row["latency"] < 10
        assert abs(row["time"] - time.time()) < 60
    assert [written[score]["kept"] for score in (200, 10, 94)] == ["anomalous", None, "borderline"]
    assert json.loads(written[200]["regions"])[0]["box"] == [0, 0, 32, 32] and written[10]["regions"] is None
    kept = Image.open(tmp_path / "pictures" / written[200]["picture"]).convert("RGB")
    assert np.array_equal(np.asarray(kept), images[0]) and written[10]["picture"] is None


def test_a_category_is_kept_where_no_thresholds_decide(tmp_path: Path) -> None:
    """Its images would else pass for those of another product, and be trained on."""
    with Journal(tmp_path, detector(None)) as journal:
        assert [found.category for found in detector(None).stream([PIXELS], "bolt", journal=journal)] == [None]
        with pytest.raises(UserError, match="category bolt is not one of the detector's: it has none: leave it out"):
            detector().stream([PIXELS], "bolt", journal=journal)
    assert [row["category"] for row in rows(tmp_path)] == ["bolt"]


def test_the_image_file_is_kept_as_it_came(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG")
    with Journal(tmp_path, detector()) as journal:
        assert write(journal, detection(120.0), file=file.getvalue())
    assert (tmp_path / "pictures" / rows(tmp_path)[0]["picture"]).read_bytes() == file.getvalue()


def test_the_random_sample_has_its_share(tmp_path: Path) -> None:
    with Journal(tmp_path, detector(), JournalSettings(sample=0.2)) as journal:
        for _ in range(500):
            journal.record(detection(5.0), 0.1)
    kept = [row["picture"] is not None for row in rows(tmp_path)]
    assert len(kept) == 500 and 60 < sum(kept) < 140


def test_pictures_are_bounded_and_the_oldest_sampled_go_first(tmp_path: Path) -> None:
    size = 3500  # a PNG of 32x32 noise has a little less
    with Journal(tmp_path, detector(), JournalSettings(sample=1, pictures_mib=4 * size / 2**20)) as journal:
        for score in (150.0, 5.0, 6.0, 93.0, 7.0, 160.0, 170.0):
            assert write(journal, detection(score))
    assert DECISION.p_value(93.0) <= BORDERLINE * DECISION.operating_point().p_value
    assert [row["score"] for row in rows(tmp_path) if row["picture"]] == [150, 93, 160, 170]
    named = {row["picture"] for row in rows(tmp_path)} - {None}
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == named
    assert sum(path.stat().st_size for path in (tmp_path / "pictures").iterdir()) <= 4 * size


def test_a_full_disk_does_not_stop_the_journal(tmp_path: Path) -> None:
    """SQLite refuses to grow, and later grows again. Rows that were refused in between are counted."""
    with Journal(tmp_path, detector(), JournalSettings(sample=0)) as journal:
        assert write(journal, detection(5.0))
        pages = journal.file.connection.execute("PRAGMA page_count").fetchone()[0]
        journal.file.connection.execute(f"PRAGMA max_page_count = {pages}")
        dropped = sum(not write(journal, detection(5.0), "n" * 2000) for _ in range(200))
        assert dropped == journal.dropped > 100 and "full" in journal.trouble
        journal.file.connection.execute("PRAGMA max_page_count = 1000000")
        assert write(journal, detection(6.0))
        assert journal.description()["dropped"] == dropped
    assert len(rows(tmp_path)) == 202 - dropped


def test_rows_of_a_journal_that_was_moved_are_counted(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal", detector()) as journal:
        assert write(journal, detection(5.0))
        (tmp_path / "journal").rename(tmp_path / "moved")
        assert not write(journal, detection(5.0)) and journal.dropped == 1
        assert "journal.sqlite was removed or moved: start again" in journal.trouble
        (tmp_path / "moved").rename(tmp_path / "journal")
        assert write(journal, detection(5.0))


def test_pictures_that_cannot_be_written_are_counted(tmp_path: Path) -> None:
    with Journal(tmp_path, detector()) as journal:
        (tmp_path / "pictures").rmdir()
        (tmp_path / "pictures").write_text("in the way")
        assert write(journal, detection(150.0))
    assert journal.dropped_pictures == 1 and "pictures" in journal.trouble
    assert [row["picture"] for row in rows(tmp_path)] == [None]


def test_a_closed_journal_drops_rows(tmp_path: Path) -> None:
    with Journal(tmp_path, detector(), JournalSettings(sample=0)) as journal:
        pass
    assert not write(journal, detection(5.0))
    assert journal.dropped == 1 and "closed" in journal.trouble


def test_a_journal_needs_no_torch_opencv_or_scipy() -> None:
    code = "import lit_ad.deploy.journal, sys; print({'torch', 'lightning', 'cv2', 'scipy'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_recording_is_fast(tmp_path: Path) -> None:
    with Journal(tmp_path, detector(), JournalSettings(sample=0)) as journal:
        found = [detection(5.0) for _ in range(1000)]
        begin = time.perf_counter()
        for each in found:
            journal.record(each, 0.1)
        seconds = time.perf_counter() - begin
    assert seconds / 1000 < 2e-3 and len(rows(tmp_path)) == 1000


def drifting(count: int) -> list[float]:
    return list((np.random.default_rng(0).random(count) * 30 + 64).tolist())


def test_drift_goes_on_after_a_restart(tmp_path: Path) -> None:
    """In one process or in three, the tests have the same state; the alarm is one event."""
    for folder, parts in (("one", [0, 400]), ("three", [0, 7, 150, 400])):
        for begin, end in pairwise(parts):
            with Journal(tmp_path / folder, detector(), JournalSettings(sample=0, anomalous_rate=0.1)) as journal:
                for score in drifting(400)[begin:end]:
                    journal.record(detection(score), 0.1)
    one, three = (JournalFile(tmp_path / folder, alone=False) for folder in ("one", "three"))
    states = [json.loads(file.states()["", ""]) for file in (one, three)]
    for state in states:
        for test in state.values():  # the clock is another
            test["capital"]["since"] = None
            test["capital"]["alarm"] and test["capital"]["alarm"].update(time=0, since=0)
    assert states[0] == states[1] and states[0]["scores"]["capital"]["alarm"]["image"] < 200
    for folder in ("one", "three"):
        (event,) = events(tmp_path / folder)
        assert event[0] == "alarm" and "nominal have changed: since about 20" in event[1]


KILLED = """
import sys
from tests.deploy.test_journal import Journal, JournalSettings, detection, detector, drifting, write
journal = Journal(sys.argv[1], detector(), JournalSettings(sample=0))
for number, score in enumerate(drifting(10_000)):
    assert write(journal, detection(score), str(number))
    print(number, flush=True)
"""


def test_rows_reported_as_written_survive_a_kill(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, cwd=root, text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 1200:  # behind the first saved state
            break
    with pytest.raises(UserError, match="another process writes to the journal"):
        Journal(tmp_path, detector())
    process.send_signal(signal.SIGKILL)
    said = [1200, *(int(line) for line in process.stdout if line.endswith("\n"))][-1]
    process.wait(30)
    written = [row["score"] for row in rows(tmp_path)]
    assert len(written) > said and written == drifting(10_000)[: len(written)]
    with Journal(
        tmp_path, detector(), JournalSettings(sample=0)
    ) as journal:  # the lock is free, and the test is where it was
        capital = journal.watch.tests["", ""]["scores"].capital.log
    with Journal(tmp_path / "again", detector(), JournalSettings(sample=0)) as journal:
        for score in written:
            journal.record(detection(score), 0.1)
        assert write(journal, detection(99.0))  # anomalous: the test of the scores ignores it
        assert journal.watch.tests["", ""]["scores"].capital.log == capital


def test_another_process_can_reset_the_tests_with_a_reason(tmp_path: Path) -> None:
    with Journal(tmp_path, detector(), JournalSettings(sample=0)) as journal:
        for score in drifting(300):
            journal.record(detection(score), 0.1)
        assert write(journal, detection(5.0)) and journal.alarms()
        other = JournalFile(tmp_path, alone=False)
        other.add_event("reset", None, None, "new lamp")
        other.close()
        assert write(journal, detection(5.0)) and not journal.alarms()
        assert journal.watch.tests["", ""]["scores"].capital.images == 1
    assert [kind for kind, _ in events(tmp_path)] == ["alarm", "reset"]
    with Journal(tmp_path, detector(), JournalSettings(sample=0)) as journal:
        assert not journal.alarms() and journal.watch.tests["", ""]["scores"].capital.images == 1


def test_another_detector_restarts_the_tests(tmp_path: Path) -> None:
    with Journal(tmp_path, detector(), JournalSettings(sample=0)) as journal:
        assert write(journal, detection(50.0))
    with Journal(tmp_path, detector(DECISION.with_rate(0.1)), JournalSettings(sample=0)) as journal:
        assert not journal.watch.tests
    assert events(tmp_path) == [("reset", "another detector, decision, delta or anomalous_rate")]


def test_without_a_threshold_nothing_is_tested(tmp_path: Path) -> None:
    with Journal(tmp_path, detector(None), JournalSettings(sample=1)) as journal:
        assert write(journal, detection(5.0, None), "a\nb")
        assert "Nothing is tested" in journal.description()["drift"]["promise"]
    (row,) = rows(tmp_path)
    assert (row["verdict"], row["p_value"], row["name"]) == (None, None, "a\\nb") and row["picture"]


def test_folders_that_are_not_a_journal_are_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_text("no database at all, but a text " * 100)
    with pytest.raises(UserError, match=r"journal.sqlite cannot be opened .*give another --journal"):
        Journal(tmp_path, detector())
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="give another --journal"):
        Journal(tmp_path / "file", detector())
