"""An augmentation depends on a key alone, draws independently of other augmentations, and keeps uint8."""

from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pytest

from lit_ad.batch import Sample
from lit_ad.data import AnomalyDataModule, MVTec
from lit_ad.data.augment import Augment, find_smallest_inputs, load_transforms
from lit_ad.errors import UserError
from lit_ad.image.view import View


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_augmentations_depend_on_the_key_alone() -> None:
    image, augment = picture(32, 32), Augment([A.RandomBrightnessContrast(p=1), A.OneOf([A.GaussNoise(), A.Blur()])])
    once = augment(image, (0, 1, 2))
    other = augment(image, (0, 1, 3))
    assert np.array_equal(augment(image, (0, 1, 2)), once) and not np.array_equal(once, other)


def test_transforms_of_one_list_draw_independently() -> None:
    image, augment = picture(8, 8), Augment([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)])
    results = {augment(image, (0, 0, i)).tobytes() for i in range(40)}
    assert len(results) == 4


def test_augmentations_must_keep_uint8() -> None:
    with pytest.raises(UserError, match=r"data.augment must keep images uint8"):
        Augment([A.Normalize()])(picture(8, 8), (0,))


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ([A.RandomCrop(256, 256)], r"data.augment fails on training images of 64x60: CropSizeError: .*256"),
        ([A.RandomCrop(256, 256, p=0.001)], "CropSizeError"),
        ([A.OneOf([A.HorizontalFlip(p=1.0), A.Sequential([A.RandomCrop(256, 256)], p=0.0001)])], "CropSizeError"),
        ([A.OneOrOther(A.HorizontalFlip(), A.RandomCrop(256, 256), p=0.9)], "CropSizeError"),
        ([A.Normalize(p=0.001)], "must keep images uint8"),
        ([A.RandomCrop(48, 48, p=0.5)], "turns images of 64x60 into several sizes, such as 48x48 and 64x60"),
        ([A.OneOf([A.RandomCrop(48, 48), A.RandomCrop(32, 32)], p=1.0)], "such as 32x32 and 48x48"),
    ],
)
def test_augmentations_that_fail_on_training_images_are_refused(transforms: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Augment(transforms).try_out((64, 60))


def test_augmentations_that_fit_training_images_are_accepted_and_not_changed() -> None:
    """A crop may be larger than the image if another augmentation enlarges the image first. Sizes may differ where a
    batch is one image."""
    Augment([A.Resize(300, 300, p=1.0), A.RandomCrop(256, 256, p=1.0)]).try_out((64, 60))
    Augment([A.RandomCrop(48, 48, p=0.5)]).try_out((64, 60), alike=False)
    augment = Augment([A.HorizontalFlip(p=0.3), A.OneOf([A.Blur(p=0.1), A.GaussNoise(p=0.9)], p=0.2)])
    before = [augment(picture(16, 16), (i,)) for i in range(20)]
    augment.try_out((16, 16))
    for i, image in enumerate(before):
        assert np.array_equal(augment(picture(16, 16), (i,)), image)


def test_augmentations_are_tried_on_the_smallest_training_images(write: Any) -> None:
    """Where images keep their sizes, the lowest and the narrowest image are tried; else the size of the view or of its
    tiles."""
    samples = [Sample(write(f"{height}.png", (height, width)), 0) for height, width in ((40, 90), (60, 30), (80, 80))]
    assert find_smallest_inputs(View(None), samples) == [(40, 90), (60, 30)]
    assert find_smallest_inputs(View((24, 20)), samples) == [(24, 20)]
    assert find_smallest_inputs(View(None, tile=16), samples) == [(16, 16)]


def test_an_augmentation_that_fails_ends_a_fit_before_training(images: Path) -> None:
    data = AnomalyDataModule(MVTec(images), View(32), augment=[A.RandomCrop(256, 256)])
    data.setup("test")
    with pytest.raises(UserError, match=r"data.augment fails on training images of 32x32"):
        data.setup("fit")


@pytest.mark.parametrize("name", ["saved.json", "saved.yaml", "saved"])
def test_files_of_albumentations_are_read(name: str, tmp_path: Path) -> None:
    transforms = A.Compose([A.HorizontalFlip(p=0.5), A.RandomBrightnessContrast(p=1.0)])
    A.save(transforms, tmp_path / name, data_format="yaml" if name.endswith("yaml") else "json")
    augment, expected = Augment(load_transforms(tmp_path / name)), Augment([transforms])
    for i in range(5):
        assert np.array_equal(augment(picture(16, 16), (i,)), expected(picture(16, 16), (i,)))


@pytest.mark.parametrize("content", [None, "{", "[1, 2]", '{"transform": {"__class_fullname__": "os.system", "p": 1}}'])
def test_a_file_that_is_not_of_albumentations_is_an_error_of_one_line(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"data.augment: .*other\.json cannot be read as a file of .*A\.save") as error:
        load_transforms(file)
    assert "\n" not in str(error.value)
