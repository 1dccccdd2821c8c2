"""A training that goes on compares its data with the data of the checkpoint."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lit_ad.data import AnomalyDataModule, Loading, MVTec, Split
from lit_ad.data.record import DataRecord
from lit_ad.errors import UserError
from lit_ad.image.view import View


def record(root: Path, **settings: Any) -> DataRecord:
    return AnomalyDataModule(MVTec(root), View(32), **settings).record


def test_the_same_data_in_another_folder_are_accepted(images: Path, tmp_path: Path) -> None:
    before = record(images).to_dict()
    assert record(images).go_on(before) == []
    shutil.copytree(images, tmp_path / "moved")
    assert record(tmp_path / "moved").go_on(before) == [
        f"images below {tmp_path / 'moved'} from here on, below {images} in the checkpoint"
    ]


@pytest.mark.parametrize(
    ("split", "remedy"),
    [
        (Split(seed=1), "data.split.seed 0"),
        (Split(0.5), "data.split.val_fraction 0.2"),
        (Split(0.5, 1), "data.split.val_fraction 0.2 and data.split.seed 0"),
    ],
)
def test_an_image_that_was_trained_on_cannot_be_held_out(images: Path, split: Split, remedy: str) -> None:
    with pytest.raises(UserError, match=rf"would now be held out, such as .*\.png: give {remedy}, or train anew"):
        record(images, split=split).go_on(record(images).to_dict())


def test_the_remedy_names_data_split_where_a_checkpoint_lacks_its_settings(images: Path) -> None:
    before = record(images).to_dict()
    del before["settings"]["data.split.seed"]
    with pytest.raises(UserError, match=r"give data.split.val_fraction 0.2 and data.split as it was, or train anew"):
        record(images, split=Split(0.5)).go_on(before)
    with pytest.raises(UserError, match=r"give data.split as it was, or train anew"):
        record(images, split=Split(seed=1)).go_on(before)


def test_an_image_that_was_trained_on_cannot_be_tested(images: Path, tmp_path: Path) -> None:
    shutil.copytree(images, root := tmp_path / "stripes")
    before = AnomalyDataModule(MVTec(root), View(32))
    trained = before.splits.train[0]
    splits = replace(before.splits, test=[trained._replace(split="test")])
    with pytest.raises(UserError, match=r"^1 image that .* would now be tested"):
        DataRecord(splits, {}).go_on(before.record.to_dict())


def test_changed_settings_that_are_accepted_are_reported(images: Path) -> None:
    lines = record(images, split=Split(0.1), batch_size=8, loading=Loading(balanced=True)).go_on(
        record(images).to_dict()
    )
    assert lines == [
        "data.split.val_fraction: 0.1 from here on, 0.2 in the checkpoint",
        "data.batch_size: 8 from here on, 32 in the checkpoint",
        "data.loading.balanced: True from here on, False in the checkpoint",
        "of 11 training images, 1 new; 0 of the checkpoint gone",
        "other images are held out: val/loss does not compare with that of the best checkpoint so far",
    ]


def test_the_images_of_all_earlier_trainings_are_remembered(images: Path) -> None:
    """The second training does not use one image of the first training. The third training would hold out that
    image."""
    first, second = record(images), record(images)
    gone = first.splits.train[0]
    second.splits = replace(second.splits, train=[sample for sample in second.splits.train if sample != gone])
    second.trained = DataRecord(second.splits, {}).trained
    second.go_on(first.to_dict())
    third = DataRecord(replace(second.splits, val=[gone]), {})
    with pytest.raises(UserError, match="would now be held out"):
        third.go_on(second.to_dict())


def test_other_images_with_the_same_names_are_new_images(images: Path, tmp_path: Path) -> None:
    """Their sizes in bytes differ."""
    shutil.copytree(images, root := tmp_path / "stripes")
    for file in (root / "train/good").iterdir():
        file.write_bytes(file.read_bytes() + b"\0")
    lines = record(root, split=Split(seed=1)).go_on(record(images).to_dict())
    assert "of 10 training images, 10 new; 10 of the checkpoint gone" in lines
