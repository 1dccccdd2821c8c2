"""DIR/detector.ckpt is the shipped version, and a rollback ships the one before it."""

import errno
import shutil
from pathlib import Path

import pytest

from lit_ad.deploy.journal_file import JournalFile
from lit_ad.deploy.versions import Versions
from lit_ad.errors import UserError
from lit_ad.line.shipping import (
    find_file,
    find_images,
    find_next_folder,
    find_shipped_version,
    find_version,
    link_or_copy,
    remember,
    roll_back,
    ship,
    undo_on_failure,
)
from tests.deploy.test_journal import DECISION, detector


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A journal of two versions: the file of one lies in its folder, that of the other outside."""
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


def test_a_version_is_shipped_and_rolled_back(folder: Path, tmp_path: Path) -> None:
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
    assert find_next_folder(folder) == folder / "detectors/2"


def test_a_version_without_a_file_cannot_be_shipped(folder: Path) -> None:
    (folder / "detectors/7/new.ckpt").unlink()
    with pytest.raises(UserError, match="version 2 has no file"):
        ship(folder, 2, "grown")
    assert not (folder / "detector.ckpt").exists() and states(folder) == ["judged", "judged"]


def test_a_second_name_keeps_its_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    link_or_copy(tmp_path / "a", tmp_path / "deep/b")
    (tmp_path / "c").write_text("2")
    (tmp_path / "c").replace(tmp_path / "a")  # as checkpoints are written
    assert (tmp_path / "deep/b").read_text() == "1"


def test_a_file_is_copied_to_another_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    (tmp_path / "a").write_text("1")
    link_or_copy(tmp_path / "a", tmp_path / "deep/b")
    assert (tmp_path / "deep/b").read_text() == "1"
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["b"]


@pytest.mark.parametrize("first", [False, True])
def test_a_failed_growth_leaves_nothing(folder: Path, tmp_path: Path, first: bool) -> None:
    if first:  # nothing was grown yet
        shutil.rmtree(folder / "detectors")
    before = [find_version(folder, number) for number in (1, 2)]
    (tmp_path / "third.ckpt").write_text("third")

    @undo_on_failure(folder)
    def grow() -> None:
        file = JournalFile(folder, alone=False)
        assert Versions(file).register(detector(DECISION.with_rate(0.2)).card) == 3
        file.close()
        remember(folder, 3, tmp_path / "third.ckpt")
        assert find_file(folder, find_version(folder, 3)).read_text() == "third"
        if first:
            remember(folder, 1, tmp_path / "old.ckpt")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grow()
    assert states(folder) == ["judged", "judged"]
    if first:
        assert not (folder / "detectors").exists() and find_version(folder, 1).file is None
    else:
        assert [find_version(folder, number) for number in (1, 2)] == before
        assert sorted(path.name for path in (folder / "detectors").iterdir()) == ["1", "7"]


def test_the_table_of_a_versions_images(folder: Path) -> None:
    assert find_shipped_version(folder) is None and find_images(folder, find_version(folder, 2)) is None
    (folder / "detectors/7/images.csv").write_text("path,split,label\n")
    assert find_images(folder, find_version(folder, 2)) == folder / "detectors/7/images.csv"
    ship(folder, 2, "grown")
    assert find_shipped_version(folder) == find_version(folder, 2)
