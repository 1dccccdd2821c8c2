"""DIR/detector.ckpt is the shipped version, and a rollback ships the one before it."""

import subprocess
import sys
from pathlib import Path

import pytest

from lit_ad.deploy.journal_file import JournalFile
from lit_ad.errors import UserError
from lit_ad.line.shipping import (
    find_file,
    find_images,
    find_next_folder,
    find_shipped_version,
    find_version,
    finish_shipping,
    is_shipping,
    list_versions,
    register,
    roll_back,
    ship,
    ship_again,
)
from tests.deploy.test_journal import DECISION, detector


def states(folder: Path) -> list[str]:
    return [version.state for version in list_versions(folder)]


def test_a_version_is_shipped_and_rolled_back(versions: Path, tmp_path: Path) -> None:
    (tmp_path / "old.ckpt").unlink()  # it is kept in the journal
    assert ship(versions, 1, "first").read_text() == "old" and states(versions) == ["shipped", "judged"]
    assert ship(versions, 2, "grown").read_text() == "new" and states(versions) == ["retired", "shipped"]
    assert roll_back(versions).id == 1
    assert (versions / "detector.ckpt").read_text() == "old" and states(versions) == ["shipped", "retired"]
    with pytest.raises(UserError, match="there is nothing to go back to"):
        roll_back(versions)
    reasons = [event.reason for event in JournalFile(versions, alone=False).events(kind="shipped")]
    assert reasons == ["version 1: first", "version 2: grown", "version 1: back from version 2"]
    assert ship_again(versions, 2) == 2
    assert (versions / "detector.ckpt").read_text() == "new" and states(versions) == ["retired", "shipped"]
    with pytest.raises(UserError, match=r"^version 2 is .*detector.ckpt already"):
        ship_again(versions, 2)
    (versions / "detector.ckpt").unlink()
    assert ship_again(versions, 2) == 2 and (versions / "detector.ckpt").read_text() == "new"
    with pytest.raises(UserError, match=r"has no version 9: lit-ad journal .* lists its versions"):
        ship_again(versions, 9)
    assert sorted(path.name for path in (versions / "detectors").iterdir()) == ["1", "7"]
    assert find_next_folder(versions) == versions / "detectors/2"


def test_rollbacks_go_back_through_all_that_was_shipped(versions: Path, tmp_path: Path) -> None:
    (tmp_path / "third.ckpt").write_text("third")
    third = register(versions, detector(DECISION.with_rate(0.2)).card, tmp_path / "third.ckpt", parent=1)
    for number in (1, 2, third, 1):
        ship_again(versions, number)
    assert [roll_back(versions).id for _ in range(3)] == [third, 2, 1]  # not the parent of the third, which is 1
    with pytest.raises(UserError, match="there is nothing to go back to"):
        roll_back(versions)
    assert (versions / "detector.ckpt").read_text() == "old"


def test_the_first_shipped_version_goes_back_to_the_one_it_was_compared_with(versions: Path) -> None:
    file = JournalFile(versions, alone=False)
    file.connection.execute("UPDATE versions SET parent = 1 WHERE id = 2")
    ship_again(versions, 2)
    assert roll_back(versions).id == 1
    file.connection.execute("UPDATE versions SET file = NULL WHERE id = 2")
    with pytest.raises(UserError, match=r"version 2 has no file in .*, since it was served from another place"):
        ship_again(versions, 2)


def test_a_version_without_a_file_cannot_be_shipped(versions: Path) -> None:
    (versions / "detectors/7/new.ckpt").unlink()
    with pytest.raises(UserError, match="version 2 has no file"):
        ship(versions, 2, "grown")
    assert not (versions / "detector.ckpt").exists() and states(versions) == ["judged", "judged"]


def test_a_version_stays_if_somebody_overwrites_the_shipped_file(versions: Path, tmp_path: Path) -> None:
    for number, text in ((1, "old"), (2, "new")):
        ship(versions, number, "first").write_text("other")  # into the same file, as cp does
        assert ship(versions, number, "again").read_text() == text
    (tmp_path / "old.ckpt").write_text("other")
    assert find_file(versions, find_version(versions, 1)).read_text() == "old"


def test_a_checkpoint_outside_the_journal_is_kept_once(versions: Path, tmp_path: Path) -> None:
    card = detector(DECISION.with_rate(0.05)).card
    assert register(versions, card, tmp_path / "old.ckpt", report="{}") == 1
    assert find_version(versions, 1).report == "{}" and find_version(versions, 1).file == "detectors/1/detector.ckpt"
    (versions / "detectors/1/detector.ckpt").unlink()
    assert register(versions, card, tmp_path / "old.ckpt") == 1
    assert find_file(versions, find_version(versions, 1)) == versions / "detectors/2/detector.ckpt"
    assert states(versions) == ["judged", "judged"]


KILLED = """
import sys, time
from pathlib import Path
from lit_ad.deploy.journal_file import JournalFile
from lit_ad.line.shipping import ship

def wait(file):
    print("waits", flush=True)
    time.sleep(600)

JournalFile.transaction = wait  # the states of the versions come last
ship(Path(sys.argv[1]), 2, "grown")
"""


def test_a_killed_shipping_is_finished(versions: Path) -> None:
    ship(versions, 1, "first")
    with subprocess.Popen([sys.executable, "-c", KILLED, versions], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"waits\n"
        process.kill()
    assert (versions / "detector.ckpt").read_text() == "new" and states(versions) == ["shipped", "judged"]
    assert finish_shipping(versions) == 2 and finish_shipping(versions) is None
    assert (versions / "detector.ckpt").read_text() == "new" and states(versions) == ["retired", "shipped"]
    reasons = [event.reason for event in JournalFile(versions, alone=False).events(kind="shipped")]
    assert reasons == ["version 1: first", "version 2: grown"]


def test_a_killed_shipping_of_a_file_that_is_gone_is_given_up(versions: Path) -> None:
    file = JournalFile(versions, alone=False)
    file.save_fact("shipping", '[2, "grown"]')
    (versions / "detectors/7/new.ckpt").unlink()
    assert finish_shipping(versions) is None and not is_shipping(file)


def test_the_table_of_a_versions_images(versions: Path) -> None:
    assert find_shipped_version(versions) is None and find_images(versions, find_version(versions, 2)) is None
    (versions / "detectors/7/images.csv").write_text("path,split,label\n")
    assert find_images(versions, find_version(versions, 2)) == versions / "detectors/7/images.csv"
    ship(versions, 2, "grown")
    assert find_shipped_version(versions) == find_version(versions, 2)
