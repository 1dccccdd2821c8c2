"""A growth that fails, is stopped or is killed leaves nothing; two at once are refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lit_ad.deploy.journal import Journal
from lit_ad.deploy.journal_file import JournalFile
from lit_ad.deploy.versions import Version
from lit_ad.errors import UserError
from lit_ad.line.shipping import find_file, find_version, list_versions, register, ship
from lit_ad.line.unfinished import clean_up, grow_alone, undo_on_failure
from tests.deploy.test_journal import DECISION, detection, detector

THIRD = detector(DECISION.with_rate(0.2))


def list_files(folder: Path) -> list[str]:
    """The files of the versions."""
    return sorted(str(path.relative_to(folder)) for path in folder.glob("det*/**/*") if path.is_file())


def grow(folder: Path, checkpoint: Path) -> None:
    """Make two versions as a growth does: the one that grows, from outside of the journal, and half of the new one."""
    number = register(folder, THIRD.card, checkpoint)
    assert find_file(folder, find_version(folder, number)).read_text() == "third"
    (folder / "detectors/9/checkpoints").mkdir(parents=True)
    (folder / "detectors/9/checkpoints/last.ckpt").write_text("half")
    register(folder, detector(DECISION.with_rate(0.3)).card, folder / "detectors/9/checkpoints/last.ckpt")


@pytest.fixture(params=[False, True], ids=["later", "first"])
def before(request: pytest.FixtureRequest, versions: Path, tmp_path: Path) -> tuple[list[Version], list[str]]:
    """The versions and files of before a growth, which is a later one or the first one of the journal."""
    if request.param:
        shutil.rmtree(versions / "detectors")
        file = JournalFile(versions, alone=False)
        with file.transaction():
            file.connection.execute("UPDATE versions SET file = NULL")
    (tmp_path / "third.ckpt").write_text("third")
    return list_versions(versions), list_files(versions)


def test_a_failed_growth_leaves_nothing(
    before: tuple[list[Version], list[str]], versions: Path, tmp_path: Path
) -> None:
    @undo_on_failure(versions)
    def fail() -> None:
        register(versions, detector(DECISION.with_rate(0.05)).card, tmp_path / "old.ckpt")  # it may have had no file
        grow(versions, tmp_path / "third.ckpt")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (list_versions(versions), list_files(versions)) == before
    assert (versions / "detectors").is_dir() == bool(before[1])


def test_a_growth_without_the_earlier_files_forgets_none(versions: Path, tmp_path: Path) -> None:
    """They may be on a disk that is not mounted."""
    before = list_versions(versions), list_files(versions)
    (versions / "detectors").rename(tmp_path / "elsewhere")
    with (
        pytest.raises(UserError, match=r"version 2 has no file .*: bring detectors/7/new.ckpt back, or begin a new"),
        undo_on_failure(versions),
    ):
        find_file(versions, find_version(versions, 2))
    register_unfinished(versions)
    (tmp_path / "elsewhere").rename(versions / "detectors")
    with grow_alone(versions):
        assert (list_versions(versions), list_files(versions)) == before


GROWS = """
import sys, time
from pathlib import Path
from lit_ad.line.unfinished import grow_alone, undo_on_failure
from tests.line.test_unfinished import grow
folder, checkpoint = map(Path, sys.argv[1:])
with grow_alone(folder), undo_on_failure(folder):
    grow(folder, checkpoint)
    print("grows", flush=True)
    time.sleep(600)
"""


@contextmanager
def growing(folder: Path, checkpoint: Path) -> Iterator[None]:
    """Grow in another process, which is killed at the end."""
    command = [sys.executable, "-c", GROWS, str(folder), str(checkpoint)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"grows\n"
            yield
        finally:
            process.kill()


def test_a_killed_growth_is_undone_but_a_running_one_is_not(
    before: tuple[list[Version], list[str]], versions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with growing(versions, tmp_path / "third.ckpt"):
        listed = list_versions(versions), list_files(versions)
        with (
            pytest.raises(UserError, match=f"another growth runs in {versions}: wait for its end"),
            grow_alone(versions),
        ):
            pass
        clean_up(versions)
        assert (list_versions(versions), list_files(versions)) == listed and len(listed[0]) == len(before[0]) + 2
        assert not capsys.readouterr().err
    clean_up(versions)
    assert (list_versions(versions), list_files(versions)) == before
    names = "detectors/2, detectors/9" if before[1] else "detectors/1, detectors/9"
    assert capsys.readouterr().err == f"A growth in {versions} was killed. Removed of what it left: {names}\n"
    with grow_alone(versions), undo_on_failure(versions):
        grow(versions, tmp_path / "third.ckpt")
    clean_up(versions)
    assert len(list_versions(versions)) == len(before[0]) + 2 and "detectors/9/checkpoints/last.ckpt" in list_files(
        versions
    )
    assert not capsys.readouterr().err


def test_a_version_that_judged_since_keeps_its_row(versions: Path, tmp_path: Path) -> None:
    (tmp_path / "third.ckpt").write_text("third")
    register_unfinished(versions)
    number = register(versions, THIRD.card, tmp_path / "third.ckpt")
    with Journal(versions, THIRD) as journal:
        journal.record(detection(1.0), 0.1)
    with grow_alone(versions):
        third = find_version(versions, number)
    assert third.file is None and not (versions / "detectors/2").exists()


def test_a_version_that_somebody_shipped_meanwhile_stays(versions: Path, tmp_path: Path) -> None:
    (tmp_path / "third.ckpt").write_text("third")
    register_unfinished(versions)
    number = register(versions, THIRD.card, tmp_path / "third.ckpt")
    ship(versions, number, "chosen by hand")
    clean_up(versions)
    third = find_version(versions, number)
    assert third.state == "shipped" and find_file(versions, third).read_text() == "third"


def register_unfinished(folder: Path) -> None:
    """Let the journal's next versions look like those of a killed growth."""
    file = JournalFile(folder, alone=False)
    folders = [path.name for path in folder.glob("detectors/*")]
    files = {version.id: version.file for version in list_versions(folder)}
    file.save_fact("unfinished growth", json.dumps({"files": files, "folders": folders}))
    file.close()


def test_a_shipping_that_was_killed_is_finished(versions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ship(versions, 1, "first")
    JournalFile(versions, alone=False).save_fact("shipping", '[2, "grown"]')
    clean_up(versions)
    assert capsys.readouterr().err == f"A shipping in {versions} was killed: version 2 is shipped now\n"
    assert (versions / "detector.ckpt").read_text() == "new"


def test_a_folder_that_cannot_be_locked_is_refused(versions: Path) -> None:
    (versions / "growth.sqlite").mkdir()
    with (
        pytest.raises(UserError, match=r"growth.sqlite cannot be locked \(.*\): make .*journal writable"),
        grow_alone(versions),
    ):
        pass
