"""Confirmed images join a data set and keep their splits; training images are never compared."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_ad.batch import Sample
from lit_ad.data.sources.source import check_samples
from lit_ad.data.sources.table import Table
from lit_ad.data.splits import Splits, list_splits
from lit_ad.deploy.journal import Journal
from lit_ad.deploy.journal_file import JournalFile
from lit_ad.deploy.journal_settings import JournalSettings
from lit_ad.detector.detection import Detection
from lit_ad.errors import UserError
from lit_ad.line.growth import (
    DEFECTS,
    OLD_DEFECTS,
    OLD_GOOD,
    SAMPLED,
    SELECTED,
    gather_images,
    read_samples,
    write_samples,
)
from tests.deploy.test_journal import DECISION, detector
from tests.line.conftest import SHADES, label


def sides(samples: list[Sample]) -> dict[str, str]:
    return {sample.image.name: sample.split for sample in samples if sample.image.parent.name == "pictures"}


def test_images_keep_their_splits_for_ever(splits: Splits, folder: Path, tmp_path: Path) -> None:
    label(folder, {**dict.fromkeys(range(1, 21), "good"), 60: "defect", 59: "unsure"})
    growth = gather_images(splits, folder)
    first = sides(growth.samples)
    assert set(first.values()) == {"train", "validation", "test"} and len(first) == 21
    assert sum(growth.joined.values()) == 21
    table = folder / "detectors/2/images.csv"
    write_samples(growth.samples, table, folder / "pictures")
    again = read_samples(table)
    assert again == list_splits(Table(table.parent, table.name))
    check_samples([*again.train, *again.val, *again.test])
    assert [sample.image for sample in again.val[:3]] == [sample.image for sample in splits.val]
    assert {sample.category for sample in again.train} == {"tile"}
    label(folder, dict.fromkeys(range(21, 59), "good"))
    second = gather_images(again, folder)
    assert first.items() <= sides(second.samples).items()
    assert sum(second.joined.values()) == 38
    assert all(side != "validation" for name, side in sides(second.samples).items() if int(name[:9]) > 40)
    trained = {sample.image for sample in second.samples if sample.split != "test"}
    assert not trained & {sample.image for samples in second.groups.values() for sample in samples}
    assert {name: len(samples) for name, samples in second.groups.items()}.keys() == {
        *(OLD_GOOD, OLD_DEFECTS, SAMPLED, SELECTED, DEFECTS)
    }


def test_the_list_of_a_journals_images_moves_with_it(
    splits: Splits, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label(folder, dict.fromkeys(range(1, 21), "good"))
    growth = gather_images(splits, folder)
    write_samples(growth.samples, folder / "detectors/2/images.csv", folder / "pictures")
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    own = read_samples(moved / "detectors/2/images.csv")
    assert sides([*own.train, *own.val, *own.test]) == sides(growth.samples)
    label(moved, {21: "good"})
    again = gather_images(own, moved)
    assert sum(again.joined.values()) == 1
    assert {sample.image.parent for sample in again.samples} == {moved / "pictures", splits.test[0].image.parent}
    gone = next(sample.image for sample in own.train if sample.image.parent.name == "pictures")
    gone.unlink()
    own = read_samples(moved / "detectors/2/images.csv")
    assert f"1 picture of {moved / 'detectors/2/images.csv'} is gone: left out" in capsys.readouterr().out
    assert gone.name not in sides(gather_images(own, moved).samples)
    assert "1 labelled image without a picture, which somebody removed: left out" in capsys.readouterr().out
    splits.train[0].image.unlink()
    with pytest.raises(UserError, match=r"images.csv has .*train-0.png, and there is no such file"):
        read_samples(moved / "detectors/2/images.csv")


@pytest.mark.parametrize("now", ["unsure", ""])
def test_an_image_that_is_no_longer_labelled_good_no_longer_trains(
    now: str, splits: Splits, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label(folder, dict.fromkeys(range(1, 41), "good"))
    growth = gather_images(splits, folder)
    first = sides(growth.samples)
    again = Splits(*([s for s in growth.samples if s.split == split] for split in ("train", "validation", "test")))
    for split in ("train", "validation", "test"):
        image = int(next(name for name, side in first.items() if side == split)[:9])
        if now:
            label(folder, {image: now})
        else:
            JournalFile(folder, alone=False).connection.execute("UPDATE labels SET undone = 1 WHERE image = ?", [image])
    assert len(sides(gather_images(again, folder).samples)) == 37
    assert "2 earlier images are no longer labelled good: left out of training" in capsys.readouterr().out


def test_only_new_images_can_be_held_out(splits: Splits, folder: Path) -> None:
    label(folder, dict.fromkeys(range(1, 41), "good"))
    held = [
        sample for sample in gather_images(splits, folder, only_new_decide=True).samples if sample.split == "validation"
    ]
    assert held and all(sample.image.parent.name == "pictures" for sample in held)


def test_a_run_without_held_out_images_says_what_sets_the_threshold(
    splits: Splits, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a run of decision.folds: its threshold comes from trainings that the growth does not repeat."""
    label(folder, dict.fromkeys(range(1, 21), "good"))
    gather_images(splits, folder)
    assert "only new images set the threshold" not in capsys.readouterr().out
    growth = gather_images(Splits([*splits.train, *splits.val], [], splits.test), folder)
    held_out = [sample for sample in growth.samples if sample.split == "validation"]
    assert held_out and all(sample.image.parent.name == "pictures" for sample in held_out)
    assert "used all of its images for training, so only new images set the threshold" in capsys.readouterr().out


def test_an_image_labelled_as_a_defect_later_no_longer_trains(
    splits: Splits, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label(folder, dict.fromkeys(range(1, 41), "good"))
    growth = gather_images(splits, folder)
    name = next(name for name, side in sides(growth.samples).items() if side == "train")
    one = folder / "pictures" / name
    by_split: dict[str, list[Sample]] = {name: [s for s in growth.samples if s.split == name] for name in SHADES}
    grown = Splits(by_split["train"], by_split["validation"], by_split["test"])
    label(folder, {int(one.stem): "defect"})
    after = gather_images(grown, folder)
    assert one not in {sample.image for sample in after.samples}
    assert DEFECTS not in after.groups or not after.groups[DEFECTS]
    assert "1 earlier image is no longer labelled good: left out of training" in capsys.readouterr().out


def test_a_growth_without_good_images_is_refused(splits: Splits, folder: Path) -> None:
    label(folder, {1: "defect"})
    with pytest.raises(UserError, match="is labelled good: label some on the service's page"):
        gather_images(splits, folder)
    label(folder, {60: "good"})
    with pytest.raises(UserError, match="label more images of its random sample good"):
        gather_images(splits, folder, only_new_decide=True)


def record(folder: Path, pixels: np.ndarray, category: str | None = None, sample: float = 1.0) -> None:
    """Record an image of the line in the journal."""
    with Journal(folder, detector(), JournalSettings(sample=sample), "line") as journal:
        shape = pixels.shape[:2]
        maps = np.full(shape, 120, np.float32)
        journal.record(Detection(pixels, 120.0, maps, (0, 0, *shape), DECISION, category), 0.1)


def test_images_of_the_data_set_keep_their_splits_when_they_come_along_the_line(
    splits: Splits, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for sample in (splits.train[0], splits.val[0], splits.test[0], splits.test[2]):
        record(folder, np.asarray(Image.open(sample.image)))
    label(folder, {61: "good", 62: "good", 63: "good", 64: "defect"})
    with pytest.raises(UserError, match=r"all images labelled good in .* are already in the data set"):
        gather_images(splits, folder)
    label(folder, dict.fromkeys(range(1, 41), "good"))
    growth = gather_images(splits, folder)
    assert (
        "4 labelled images are already in the data set. They stay in their present splits." in capsys.readouterr().out
    )
    assert not {f"0000000{number}.png" for number in range(61, 65)} & set(sides(growth.samples))
    assert DEFECTS not in growth.groups and len(growth.groups[OLD_GOOD]) == len(growth.groups[OLD_DEFECTS]) == 2


def test_a_test_image_that_also_trains_is_not_compared(splits: Splits, folder: Path) -> None:
    label(folder, dict.fromkeys(range(1, 41), "good"))
    copy = splits.test[0].image
    copy.write_bytes(splits.train[0].image.read_bytes())
    growth = gather_images(splits, folder)
    assert [sample.image for sample in growth.groups[OLD_GOOD]] == [splits.test[1].image]


def test_an_image_that_came_twice_has_one_split(splits: Splits, folder: Path) -> None:
    for number in range(1, 41):
        pixels = np.full((32, 32, 3), (120, 0, 0), np.uint8)
        pixels[0, 0, 1:] = number - 1, 40  # as image `number` of the fixture
        record(folder, pixels)
    label(folder, dict.fromkeys(range(1, 41), "good"))
    once = gather_images(splits, folder)
    label(folder, dict.fromkeys(range(61, 101), "good"))
    twice = gather_images(splits, folder)
    assert once.joined == twice.joined and sum(twice.joined.values()) == 40
    assert len(sides(twice.samples)) == 40
    label(folder, {61: "defect"})
    with pytest.raises(
        UserError, match=r"000000001.png and 000000061.png are the same image, labelled good and a defec"
    ):
        gather_images(splits, folder)


def test_images_keep_the_splits_of_the_compared_detector(splits: Splits, folder: Path) -> None:
    label(folder, dict.fromkeys(range(1, 41), "good"))
    shipped = gather_images(splits, folder, seed=1)
    by_split = {name: [s for s in shipped.samples if s.split == name] for name in SHADES}
    compared = Splits(by_split["train"], by_split["validation"], by_split["test"])
    grown = gather_images(splits, folder, seed=0, compared=compared)  # from the older run
    assert sides(grown.samples) == sides(shipped.samples)  # also with another seed
    again = gather_images(splits, folder, seed=0)
    assert sides(again.samples) != sides(shipped.samples)


def test_images_of_another_product_are_left_out(
    splits: Splits, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(folder, np.zeros((32, 32, 3), np.uint8), "bolt")
    label(folder, {61: "good"})
    with pytest.raises(UserError, match="are of bolt, and RUN is of tile: grow the run of that product"):
        gather_images(splits, folder)
    label(folder, dict.fromkeys(range(1, 41), "good"))
    assert "000000061.png" not in sides(gather_images(splits, folder).samples)
    assert "1 labelled image of bolt: left out, because RUN is of tile" in capsys.readouterr().out
