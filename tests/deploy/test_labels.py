"""Labels record who gave them and when, can be undone, and protect pictures from removal."""

import sqlite3
from pathlib import Path

import pytest

from lit_ad.deploy.journal_file import JournalFile, Row
from lit_ad.deploy.labels import Labels
from lit_ad.deploy.pictures import Pictures
from lit_ad.errors import UserError

P_VALUES = (0.01, 0.2, 0.06, 0.9)


def fill(folder: Path) -> JournalFile:
    """A journal of four images with pictures of 10 bytes, the third of the random sample, and one without."""
    file = JournalFile(folder, alone=True)
    pictures = Pictures(file, 50)
    for number, p in enumerate((*P_VALUES, 0.5)):
        row = Row(0.0, "line", "nut", "", 1.0, p, "nominal", 0.1, "sample", number == 2, None)
        (image,) = file.insert([row])
        if number < 4:
            assert pictures.save(image, bytes(10), ".png")
    pictures.flush()
    return file


def order(labels: Labels, name: str) -> list[int]:
    return [each["id"] for each in labels.list_unlabelled(name)]


def undo(labels: Labels, who: str) -> int:
    """The number of the image whose label is taken back."""
    undone = labels.undo(who)
    assert undone is not None
    return int(undone["image"])


def test_unlabelled_images_are_listed_in_each_order(tmp_path: Path) -> None:
    fill(tmp_path)
    labels = Labels(tmp_path, 0.05)
    assert order(labels, "newest") == [4, 3, 2, 1]
    assert order(labels, "doubtful") == [3, 1, 2, 4]
    assert order(labels, "sample") == [3, 4, 2, 1]
    (first, *_) = labels.list_unlabelled("newest", most=1)
    assert (first["source"], first["p_value"], first["regions"]) == ("line", 0.9, [])
    with pytest.raises(UserError, match="order is 'id; DROP', but it must be newest or"):
        labels.list_unlabelled("id; DROP")


def test_pictures_that_somebody_deleted_are_neither_listed_nor_labelled(tmp_path: Path) -> None:
    fill(tmp_path)
    labels = Labels(tmp_path, 0.05)
    (tmp_path / "pictures/000000004.png").unlink()
    assert order(labels, "newest") == [3, 2, 1] and len(labels.list_unlabelled("newest", most=2)) == 2
    with pytest.raises(UserError, match="image 4 has no picture in the journal, or none any more"):
        labels.add(4, "good")


def test_a_label_has_who_and_when_and_can_be_undone(tmp_path: Path) -> None:
    fill(tmp_path)
    labels = Labels(tmp_path, 0.05)
    labels.add(4, "defect", " dent\t", "Ada")
    labels.add(3, "good", "dent", "Ada")
    labels.add(2, "unsure", who="Bo")
    assert order(labels, "newest") == [1] and labels.counts() == {"good": 1, "defect": 1, "unsure": 1}
    assert undo(labels, "Ada") == 3 and undo(labels, "Ada") == 4 and labels.undo("Ada") is None
    assert order(labels, "newest") == [4, 3, 1] and labels.counts() == {"good": 0, "defect": 0, "unsure": 1}
    rows = sqlite3.connect(tmp_path / "journal.sqlite").execute("SELECT image, label, defect, who, undone FROM labels")
    assert [(image, label, defect, who, undone is None) for image, label, defect, who, undone in rows] == [
        (4, "defect", "dent", "Ada", False),
        (3, "good", "", "Ada", False),
        (2, "unsure", "", "Bo", True),
    ]


def test_a_later_label_replaces_an_earlier_one_until_it_is_undone(tmp_path: Path) -> None:
    fill(tmp_path)
    labels = Labels(tmp_path, 0.05)
    assert labels.add(4, "good", who="Ada") is None
    assert labels.add(4, "defect", "dent", who="Bo") == {"label": "good", "defect": "", "who": "Ada"}
    assert labels.counts() == {"good": 0, "defect": 1, "unsure": 0}
    good, dent = {"label": "good", "defect": "", "who": "Ada"}, {"label": "defect", "defect": "dent", "who": "Bo"}
    assert labels.undo("Bo") == {"image": 4, "taken_back": dent, "again": good}
    assert labels.counts() == {"good": 1, "defect": 0, "unsure": 0}
    assert labels.undo("Ada") == {"image": 4, "taken_back": good, "again": None}
    assert labels.counts() == {"good": 0, "defect": 0, "unsure": 0}


def test_labels_are_taken_back_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    labels = Labels(tmp_path, 0.05)
    monkeypatch.setattr("lit_ad.deploy.labels.time.time", lambda: 9.0)  # a clock of coarse steps
    labels.add(1, "unsure", who="Bo")
    for who, label in (("Ada", "good"), ("Bo", "defect"), ("Cy", "unsure"), ("", "good")):
        labels.add(4, label, who=who)
    assert undo(labels, "Bo") == 1  # his last label was replaced, so the one before it
    assert labels.undo("Bo") is None and labels.undo("Ada") is None
    assert undo(labels, "") == 4 and labels.counts() == {"good": 0, "defect": 0, "unsure": 1}
    assert undo(labels, "Cy") == 4 and labels.counts() == {"good": 0, "defect": 1, "unsure": 0}
    assert undo(labels, "Bo") == 4 and labels.counts() == {"good": 1, "defect": 0, "unsure": 0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, "fine"), "label is 'fine', but it must be good, defect, unsure"),
        ((4, "defect", "good"), "'good' cannot be the name of a defect"),
        ((4, "defect", " good "), "'good' cannot be the name of a defect"),
        ((4, "defect", "../x"), "cannot be the name of a defect"),
        ((4, "defect", "a\0b"), "cannot be the name of a defect"),  # it would be kept with a backslash
        ((10**30, "good"), "image 1000.* has no picture"),
        ((5, "good"), "image 5 has no picture"),
        ((9, "good"), "image 9 has no picture"),
    ],
)
def test_wrong_labels_are_refused(arguments: tuple[int, str], message: str, tmp_path: Path) -> None:
    fill(tmp_path)
    with pytest.raises(UserError, match=message):
        Labels(tmp_path, 0.05).add(*arguments)


def test_labelled_pictures_stay(tmp_path: Path) -> None:
    file = fill(tmp_path)
    labels, pictures = Labels(tmp_path, 0.05), Pictures(file, 50)
    for image in (1, 2, 4):
        labels.add(image, "good")
    assert pictures.save(5, bytes(20), ".png")
    pictures.flush()
    assert sorted(file.pictures().values()) == [10, 10, 10, 20] and not (tmp_path / "pictures/000000003.png").exists()
    labels.add(5, "good")
    (image,) = file.insert([Row(0.0, "", "", "", 1.0, 0.5, "nominal", 0.1, "anomalous", False, None)])
    assert not pictures.save(image, bytes(10), ".png")
    assert labels.picture(1).stat().st_size == 10
