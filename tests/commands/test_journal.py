"""`lit-ad journal` prints what a journal holds, and resets its tests with a reason."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from lit_ad.commands.journal import journal
from lit_ad.deploy.journal_file import JournalFile, Row
from lit_ad.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    file = JournalFile(tmp_path, alone=True)
    rows = [("nominal", "nut"), ("anomalous", "nut"), ("nominal", "nut"), ("nominal", "")]
    file.insert([Row(1e9, "line 1", kind, "", 1.0, 0.5, verdict, 0.1, None, False, None) for verdict, kind in rows])
    file.add_event("alarm", "line 1", "nut", "the scores have changed")
    file.close()
    return tmp_path


def test_journal_prints_verdicts_and_events(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal(folder)
    said = capsys.readouterr().out
    assert [line.split() for line in said.splitlines()[2:4]] == [
        ["line", "1", "-", "1", "0"],
        ["line", "1", "nut", "2", "1"],
    ]
    assert "alarm: the scores have changed" in said


def test_a_reset_is_written_to_the_journal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal(folder, reset="new lamp", source="line 1")
    assert "reset, source line 1: new lamp" in capsys.readouterr().out
    (event,) = JournalFile(folder, alone=False).events(kind="reset")
    assert (event.source, event.category, event.reason, event.image) == ("line 1", None, "new lamp", 4)


def test_wrong_resets_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="give --reset"):
        journal(folder, source="line 1")
    with pytest.raises(UserError, match=r"^no image of source line 2 was judged: lit-ad journal .* lists all sources"):
        journal(folder, reset="new lamp", source="line 2")
    with pytest.raises(UserError, match="no image of source line 1 and category bolt was judged"):
        journal(folder, reset="new lamp", source="line 1", category="bolt")
    with pytest.raises(UserError, match=r"--rollback resets no tests.*: give it alone"):
        journal(folder, reset="new lamp", rollback=True)
    with pytest.raises(UserError, match=r"--ship resets no tests.*: give it alone"):
        journal(folder, reset="new lamp", ship=1)
    with pytest.raises(UserError, match=r"both choose a detector: give one of them"):
        journal(folder, rollback=True, ship=1)
    with pytest.raises(UserError, match="has no version 1"):
        journal(folder, ship=1)
    with pytest.raises(UserError, match="--reset is empty"):
        journal(folder, reset=" ")
    with pytest.raises(UserError, match=r"journal.sqlite does not exist"):
        journal(folder / "nowhere")


def test_a_full_disk_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect

    def connect_to_a_full_disk(*arguments: Any, **keywords: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **keywords)
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_to_a_full_disk)
    with pytest.raises(UserError, match=r"the journal .*journal.sqlite cannot be used: database or disk is full"):
        journal(folder, reset="x" * 10_000)
