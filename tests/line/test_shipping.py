"""DIR/detector.ckpt is the shipped version; going back is one step."""

from pathlib import Path

import pytest

from lit_ad.deploy.journal_file import JournalFile
from lit_ad.deploy.versions import Versions
from lit_ad.errors import UserError
from lit_ad.line.shipping import new_folder_of, remember, roll_back, ship, take_copy
from tests.deploy.test_journal import DECISION, detector


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A journal of two versions, whose files are below and beside it."""
    folder = tmp_path / "journal"
    file = JournalFile(folder, alone=True)
    for number, rate in ((1, 0.05), (2, 0.1)):
        assert Versions(file).register(detector(DECISION.with_rate(rate)).card, parent=number - 1 or None) == number
    file.close()
    (tmp_path / "old.ckpt").write_text("old")
    (folder / "detectors/7").mkdir(parents=True)
    (folder / "detectors/7/new.ckpt").write_text("new")
    remember(folder, 1, tmp_path / "old.ckpt")
    remember(folder, 2, folder / "detectors/7/new.ckpt")
    return folder


def states(folder: Path) -> list[str]:
    return [version.state for version in Versions(JournalFile(folder, alone=False)).all()]


def test_there_and_back(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "old.ckpt").unlink()  # it is kept in the journal
    assert ship(folder, 1, "first").read_text() == "old" and states(folder) == ["shipped", "judged"]
    assert ship(folder, 2, "grown").read_text() == "new" and states(folder) == ["retired", "shipped"]
    assert roll_back(folder).id == 1
    assert (folder / "detector.ckpt").read_text() == "old" and states(folder) == ["shipped", "retired"]
    with pytest.raises(UserError, match="there is nothing to go back to"):
        roll_back(folder)
    reasons = [event.reason for event in JournalFile(folder, alone=False).events(kind="shipped")]
    assert reasons == ["version 1: first", "version 2: grown", "version 1: back from version 2"]
    assert sorted(path.name for path in (folder / "detectors").iterdir()) == ["1", "7"]
    assert new_folder_of(folder) == folder / "detectors/2"


def test_a_version_whose_file_is_gone(folder: Path) -> None:
    (folder / "detectors/7/new.ckpt").unlink()
    with pytest.raises(UserError, match="version 2 has no file"):
        ship(folder, 2, "grown")
    assert not (folder / "detector.ckpt").exists() and states(folder) == ["judged", "judged"]


def test_a_copy_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    take_copy(tmp_path / "a", tmp_path / "deep/b")
    (tmp_path / "c").write_text("2")
    (tmp_path / "c").replace(tmp_path / "a")  # as checkpoints are written
    assert (tmp_path / "deep/b").read_text() == "1"
