"""Confirmed images join a data set, each on one side for good; what has trained is never compared."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_ad.batch import Sample
from lit_ad.data.sources.source import check
from lit_ad.data.sources.table import Table
from lit_ad.data.splits import Splits, list_splits
from lit_ad.deploy.journal import Journal
from lit_ad.deploy.journal_settings import JournalSettings
from lit_ad.detector.detection import Detection
from lit_ad.errors import UserError
from lit_ad.line.growth import DEFECTS, OLD_DEFECTS, OLD_GOOD, SAMPLED, SELECTED, gather, write_samples
from tests.deploy.test_journal import DECISION, detector
from tests.line.conftest import SHADES, label


def sides(samples: list[Sample]) -> dict[str, str]:
    return {sample.image.name: sample.split for sample in samples if sample.image.parent.name == "pictures"}


def test_images_join_on_one_side_for_good(splits: Splits, folder: Path, tmp_path: Path) -> None:
    label(folder, {**dict.fromkeys(range(1, 21), "good"), 60: "defect", 59: "unsure"})
    growth = gather(splits, folder)
    first = sides(growth.samples)
    assert set(first.values()) == {"train", "validation", "test"} and len(first) == 21
    assert sum(growth.joined.values()) == 21
    write_samples(growth.samples, tmp_path / "images.csv")
    again = list_splits(Table(tmp_path, "images.csv"))
    check([*again.train, *again.val, *again.test])
    assert [sample.image for sample in again.val[:3]] == [sample.image for sample in splits.val]
    assert {sample.category for sample in again.train} == {"tile"}
    label(folder, dict.fromkeys(range(21, 59), "good"))
    second = gather(again, folder)
    assert first.items() <= sides(second.samples).items()
    assert sum(second.joined.values()) == 38
    assert all(side != "validation" for name, side in sides(second.samples).items() if int(name[:9]) > 40)
    trained = {sample.image for sample in second.samples if sample.split != "test"}
    assert not trained & {sample.image for samples in second.groups.values() for sample in samples}
    assert {name: len(samples) for name, samples in second.groups.items()}.keys() == {
        *(OLD_GOOD, OLD_DEFECTS, SAMPLED, SELECTED, DEFECTS)
    }


def test_new_images_alone_decide(splits: Splits, folder: Path) -> None:
    label(folder, dict.fromkeys(range(1, 41), "good"))
    held = [sample for sample in gather(splits, folder, only_new_decide=True).samples if sample.split == "validation"]
    assert held and all(sample.image.parent.name == "pictures" for sample in held)


def test_what_is_a_defect_after_all_trains_no_more(
    splits: Splits, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label(folder, dict.fromkeys(range(1, 41), "good"))
    growth = gather(splits, folder)
    name = next(name for name, side in sides(growth.samples).items() if side == "train")
    one = folder / "pictures" / name
    by_split: dict[str, list[Sample]] = {name: [s for s in growth.samples if s.split == name] for name in SHADES}
    grown = Splits(by_split["train"], by_split["validation"], by_split["test"])
    label(folder, {int(one.stem): "defect"})
    after = gather(grown, folder)
    assert one not in {sample.image for sample in after.samples}
    assert DEFECTS not in after.groups or not after.groups[DEFECTS]
    assert "Of the images that trained, 1 are defects now" in capsys.readouterr().out


def test_without_good_images(splits: Splits, folder: Path) -> None:
    label(folder, {1: "defect"})
    with pytest.raises(UserError, match="is labelled good: label some on the service's page"):
        gather(splits, folder)
    label(folder, {60: "good"})
    with pytest.raises(UserError, match="label more of its random sample good"):
        gather(splits, folder, only_new_decide=True)


def record(folder: Path, pixels: np.ndarray, category: str | None = None, sample: float = 1.0) -> None:
    """An image comes along the line."""
    with Journal(folder, detector(), JournalSettings(sample=sample), "line") as journal:
        shape = pixels.shape[:2]
        maps = np.full(shape, 120, np.float32)
        journal.record(Detection(pixels, 120.0, maps, (0, 0, *shape), DECISION, category), 0.1)


def test_images_of_the_data_set_that_came_along_the_line_stay_where_they_are(
    splits: Splits, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for sample in (splits.train[0], splits.val[0], splits.test[0], splits.test[2]):
        record(folder, np.asarray(Image.open(sample.image)))
    label(folder, {61: "good", 62: "good", 63: "good", 64: "defect"})
    with pytest.raises(UserError, match=r"each image that is labelled good in .* is one of the data set"):
        gather(splits, folder)
    label(folder, dict.fromkeys(range(1, 41), "good"))
    growth = gather(splits, folder)
    assert "4 labelled images of the line: the data set has the same" in capsys.readouterr().out
    assert not {f"0000000{number}.png" for number in range(61, 65)} & set(sides(growth.samples))
    assert DEFECTS not in growth.groups and len(growth.groups[OLD_GOOD]) == len(growth.groups[OLD_DEFECTS]) == 2


def test_what_a_data_set_trains_and_tests_is_not_compared(splits: Splits, folder: Path) -> None:
    label(folder, dict.fromkeys(range(1, 41), "good"))
    copy = splits.test[0].image
    copy.write_bytes(splits.train[0].image.read_bytes())
    growth = gather(splits, folder)
    assert [sample.image for sample in growth.groups[OLD_GOOD]] == [splits.test[1].image]


def test_an_image_that_came_twice_is_on_one_side(splits: Splits, folder: Path) -> None:
    for number in range(1, 41):
        pixels = np.full((32, 32, 3), (120, 0, 0), np.uint8)
        pixels[0, 0, 1:] = number - 1, 40  # as image `number` of the fixture
        record(folder, pixels)
    label(folder, dict.fromkeys(range(1, 41), "good"))
    once = gather(splits, folder)
    label(folder, dict.fromkeys(range(61, 101), "good"))
    twice = gather(splits, folder)
    assert once.joined == twice.joined and sum(twice.joined.values()) == 40
    assert len(sides(twice.samples)) == 40
    label(folder, {61: "defect"})
    with pytest.raises(
        UserError, match=r"000000001.png and 000000061.png are the same image, labelled good and a defec"
    ):
        gather(splits, folder)


def test_what_trained_or_decided_the_compared_detector_is_not_compared(splits: Splits, folder: Path) -> None:
    label(folder, dict.fromkeys(range(1, 41), "good"))
    shipped = gather(splits, folder, seed=1)
    by_split = {name: [s for s in shipped.samples if s.split == name] for name in SHADES}
    compared = Splits(by_split["train"], by_split["validation"], by_split["test"])
    grown = gather(splits, folder, seed=0, compared=compared)  # from the older run
    assert sides(grown.samples) == sides(shipped.samples)  # also with another seed
    again = gather(splits, folder, seed=0)
    assert sides(again.samples) != sides(shipped.samples)


def test_images_of_another_product(splits: Splits, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(folder, np.zeros((32, 32, 3), np.uint8), "bolt")
    label(folder, {61: "good"})
    with pytest.raises(UserError, match="are of bolt, and RUN is of tile: grow the run of that product"):
        gather(splits, folder)
    label(folder, dict.fromkeys(range(1, 41), "good"))
    assert "000000061.png" not in sides(gather(splits, folder).samples)
    assert "1 labelled image of bolt: left out, since RUN is of tile" in capsys.readouterr().out
