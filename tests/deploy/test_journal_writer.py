"""The writer keeps the order of records, and counts those that it cannot write. See also test_journal.py."""

import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from lit_ad.deploy import journal_writer
from lit_ad.deploy.drift_watch import DriftWatch
from lit_ad.deploy.journal_file import JournalFile, Row
from lit_ad.deploy.journal_writer import Record, Writer, add_regions
from lit_ad.deploy.pictures import Pictures
from lit_ad.detector.detection import Detection


def record(score: float, kept: str | None = None, size: int = 0) -> Record:
    row = Row(time.time(), "", "", "", score, 0.5, "nominal", 0.1, kept, False, None)
    detection = None if kept is None else Detection(np.zeros((4, 4, 3), np.uint8), score)
    return Record(row, detection, None, size)


def awaited(score: float) -> tuple[Record, Future[bool]]:
    written = Future[bool]()
    each = record(score)
    each.written = written
    return each, written


def writer(folder: Path) -> Writer:
    file = JournalFile(folder, alone=True)
    return Writer(file, Pictures(file, 10**6), DriftWatch(None, 0.01, None))


def test_rows_keep_their_order(tmp_path: Path) -> None:
    writing = writer(tmp_path)
    futures = []
    for score in range(1200):
        each, written = awaited(float(score))
        writing.put(each)
        futures.append(written)
    writing.close()
    assert all(written.result(0) for written in futures) and writing.waiting == 0
    rows = JournalFile(tmp_path, alone=False).rows()
    assert [row.score for _, row in rows] == list(range(1200))


def test_pictures_beyond_the_memory_limit_are_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_writer, "MAX_WAITING_BYTES", 100)
    writing = writer(tmp_path)
    large, small = record(1.0, "sample", 101), record(2.0, "sample", 99)
    writing.put(large)
    writing.put(small)
    writing.close()
    assert (writing.dropped, writing.dropped_pictures) == (0, 1) and "memory" in writing.trouble
    assert list(JournalFile(tmp_path, alone=False).pictures()) == ["000000002.png"]


def test_only_anomalous_images_have_regions() -> None:
    assert add_regions(record(1.0, "sample")).regions is None
    assert add_regions(record(1.0, "anomalous")).regions == "[]"  # an image-level method


def test_rows_that_nobody_waits_for_are_written_together(tmp_path: Path) -> None:
    writing, transactions = writer(tmp_path), list[int]()
    store = writing._store_rows
    writing._store_rows = lambda records: transactions.append(len(records)) or store(records)  # type: ignore[method-assign, func-returns-value]
    for score in range(5):
        writing.put(record(float(score)))
        time.sleep(0.002)
    writing.close()
    assert sum(transactions) == 5 and len(transactions) < 5


def test_a_caller_that_waits_is_not_delayed_by_the_gathering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_writer, "GATHER_SECONDS", 600.0)
    writing = writer(tmp_path)
    writing.put(record(1.0))
    each, written = awaited(2.0)
    writing.put(each)
    assert written.result(60)
    writing.put(record(3.0))
    writing.close()
    assert [row.score for _, row in JournalFile(tmp_path, alone=False).rows()] == [1, 2, 3]


@pytest.mark.parametrize("share", [0.0, 100.0])
def test_pictures_are_compressed_within_a_part_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr(journal_writer, "COMPRESSING", share)
    writing, pixels = writer(tmp_path), np.zeros((64, 64, 3), np.uint8)
    for _ in range(5):
        each = record(1.0, "sample")
        each.detection = Detection(pixels, 1.0)
        writing.put(each)
    writing.close()
    sizes = JournalFile(tmp_path, alone=False).pictures().values()
    assert len(sizes) == 5 and all((size < 500) == (share > 0) for size in sizes)
