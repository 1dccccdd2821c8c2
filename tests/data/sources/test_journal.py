"""The images that people label on the page of the service are a data set. The tests read the journal of the service."""

import sqlite3
from pathlib import Path

import pytest

from lit_ad.data import Journal
from lit_ad.data.sources.journal import is_journal
from lit_ad.data.sources.source import check_samples
from lit_ad.deploy.journal_file import VERSION, JournalFile
from lit_ad.deploy.labels import Labels
from lit_ad.errors import UserError
from tests.deploy.test_labels import fill


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path)
    return tmp_path


def test_good_images_are_training_images_and_defects_are_test_images(folder: Path) -> None:
    labels = Labels(folder, 0.05)
    for image, label, defect in ((1, "defect", "dent"), (2, "good", ""), (3, "good", ""), (4, "unsure", "")):
        labels.add(image, label, defect)
    source = Journal(folder, test_fraction=0)
    samples = source.samples()
    check_samples(samples)
    assert [(s.image.name, s.label, s.split, s.defect, s.category) for s in samples] == [
        ("000000002.png", 0, "train", "good", "nut"),
        ("000000003.png", 0, "train", "good", "nut"),
        ("000000001.png", 1, "test", "dent", "nut"),
    ]
    assert all(sample.image.is_file() for sample in samples)
    assert source.remarks() == ["images labelled unsure are left out: 1"] and source.tasks() == {
        "nut": {"category": "nut"}
    }
    labels.undo()
    labels.undo()
    assert len(source.samples()) == 2  # labels that the user took back do not count


def test_images_that_are_left_out_or_without_a_category_are_counted(folder: Path) -> None:
    labels = Labels(folder, 0.05)
    for image in (1, 2, 3):
        labels.add(image, "good")
    (folder / "pictures/000000001.png").unlink()
    JournalFile(folder, alone=False).connection.execute("UPDATE images SET category = '' WHERE id = 2")
    assert Journal(folder).remarks() == [
        "images whose picture somebody removed are left out: 1",
        "1 of 2 images have no category: they are a category of their own",
    ]
    assert len(Journal(folder).samples()) == 2 and len(Journal(folder, "nut").remarks()) == 1
    with pytest.raises(UserError, match=r"there are '' .images without a category., nut"):
        Journal(folder, "bolt").samples()


def test_only_the_random_sample_sets_thresholds(folder: Path) -> None:
    labels = Labels(folder, 0.05)
    labels.add(2, "good")
    with pytest.raises(UserError, match=r"no image of the random sample .* is labelled good"):
        Journal(folder).list_good()
    labels.add(3, "good")
    assert [sample.image.name for sample in Journal(folder).list_good()] == ["000000003.png"]


def test_an_image_stays_in_its_split_when_more_images_are_labelled(folder: Path) -> None:
    labels, sides = Labels(folder, 0.05), []
    for image in (2, 1, 3, 4):
        labels.add(image, "good")
        sides.append({s.image.name: s.split for s in Journal(folder, test_fraction=0.5, seed=1).samples()})
    for earlier in sides:
        assert earlier.items() <= sides[-1].items()
    assert set(sides[-1].values()) == {"train", "test"}


def test_a_folder_without_a_usable_journal_is_refused(folder: Path, tmp_path: Path) -> None:
    assert is_journal(folder) and not is_journal(folder / "pictures")
    with pytest.raises(UserError, match=r"is labelled: label some on the service's page, /review"):
        Journal(folder).samples()
    with pytest.raises(UserError, match=r"journal.sqlite does not exist: data.source.root"):
        Journal(folder / "pictures").samples()
    Labels(folder, 0.05).add(1, "good")
    with pytest.raises(UserError, match="no category bolt"):
        Journal(folder, "bolt").samples()
    with pytest.raises(UserError, match="test_fraction is 1"):
        Journal(folder, test_fraction=1)
    connection = sqlite3.connect(folder / "journal.sqlite")
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(UserError, match=f"has schema {VERSION + 1}, and this lit_ad reads {VERSION}"):
        Journal(folder).samples()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_text("a text that is longer than the head of a database " * 10)
    with pytest.raises(UserError, match=r"journal.sqlite cannot be read: file is not a database$"):
        Journal(tmp_path).samples()
