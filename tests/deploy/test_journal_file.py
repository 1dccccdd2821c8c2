"""The SQLite file keeps rows and events in order, writes whole transactions, and has one writer."""

import sqlite3
from pathlib import Path

import pytest

from lit_ad.deploy.journal_file import NAME, VERSION, JournalFile, Row
from lit_ad.errors import UserError


def row(score: float, verdict: str | None = "nominal", kept: str | None = None) -> Row:
    return Row(1e9, "line", "nut", "part.png", score, 0.5, verdict, 0.01, kept, False, None)


def test_rows_come_back_in_order_and_exactly(tmp_path: Path) -> None:
    given = [row(score) for score in (0.1, 1 / 3, 5e-324, 1e300)]
    file = JournalFile(tmp_path, alone=True)
    with file.transaction():
        numbers = file.insert(given)
    assert numbers == [1, 2, 3, 4] and file.last() == 4
    assert list(file.rows()) == list(zip(numbers, given, strict=True))
    assert list(file.rows(after=3)) == [(4, given[3])]
    file.close()
    assert list(JournalFile(tmp_path, alone=False).rows()) == list(zip(numbers, given, strict=True))


def test_a_transaction_that_fails_writes_nothing(tmp_path: Path) -> None:
    file = JournalFile(tmp_path, alone=True)

    def fail() -> None:
        with file.transaction():
            file.insert([row(1.0)])
            file.add_event("reset", None, None, "")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert file.last() == 0 and not file.events()


def test_events_and_counts(tmp_path: Path) -> None:
    file = JournalFile(tmp_path, alone=True)
    file.insert([row(1.0), row(9.0, "anomalous"), row(2.0), row(3.0, None)])
    first = file.add_event("alarm", "line", "nut", "drift")
    file.insert([row(4.0)])
    second = file.add_event("reset", None, None, "new lamp")
    assert [(event.id, event.kind, event.image, event.reason) for event in file.events()] == [
        (first, "alarm", 4, "drift"),
        (second, "reset", 5, "new lamp"),
    ]
    assert [event.id for event in file.events(kind="reset")] == [second] == [event.id for event in file.events(first)]
    assert file.counts() == {("line", "nut"): {"nominal": 3, "anomalous": 1, "no threshold": 1}}


def test_pictures_are_removed_by_kind_and_age(tmp_path: Path) -> None:
    file = JournalFile(tmp_path, alone=True)
    kinds = ("anomalous", "sample", "borderline", "sample", None)
    for number in file.insert([row(1.0, kept=kept) for kept in kinds])[:4]:
        file.set_picture(number, f"{number}.png", 10)
    gone = []
    while (going := file.picture_to_remove()) is not None:
        gone.append(going[0])
        file.set_picture(going[0], None, None)
    assert gone == [2, 4, 3, 1] and not file.pictures()


def test_only_one_process_may_write_rows(tmp_path: Path) -> None:
    first = JournalFile(tmp_path, alone=True)
    with pytest.raises(UserError, match="another process writes to the journal"):
        JournalFile(tmp_path, alone=True)
    JournalFile(tmp_path, alone=False).add_event("reset", None, None, "beside it")
    assert len(first.events()) == 1
    first.close()
    JournalFile(tmp_path, alone=True).close()


def test_files_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"journal.sqlite does not exist: give a DIR"):
        JournalFile(tmp_path / "nowhere", alone=False)
    assert not (tmp_path / "nowhere").exists()
    JournalFile(tmp_path, alone=True).close()
    connection = sqlite3.connect(tmp_path / NAME)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    for _ in range(2):  # the first refusal does not keep the lock
        with pytest.raises(UserError, match=f"has schema {VERSION + 1}, but this lit_ad reads schema {VERSION}"):
            JournalFile(tmp_path, alone=True)
    connection.close()


def test_a_journal_of_schema_1_is_upgraded(tmp_path: Path) -> None:
    JournalFile(tmp_path, alone=True).close()
    connection = sqlite3.connect(tmp_path / NAME)
    for change in (
        *("DROP INDEX names", "ALTER TABLE images DROP COLUMN look", "ALTER TABLE images DROP COLUMN version"),
        "ALTER TABLE events DROP COLUMN since",
        *("DROP TABLE versions", "PRAGMA user_version = 1"),
    ):
        connection.execute(change)
    columns = ", ".join(name for name in Row._fields if name not in ("look", "version"))
    values = [value for name, value in row(7.0)._asdict().items() if name not in ("look", "version")]
    connection.execute(f"INSERT INTO images ({columns}) VALUES ({', '.join('?' * len(values))})", values)
    connection.commit()
    connection.close()
    file = JournalFile(tmp_path, alone=True)
    assert file.insert([row(8.0)._replace(version=1)]) == [2]
    assert list(file.rows()) == [(1, row(7.0)), (2, row(8.0)._replace(version=1))]
    assert file.last_time("line", "part.png") == 1e9 and file.last_time("line", "other.png") is None
