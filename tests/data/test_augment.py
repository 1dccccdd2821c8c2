"""Augmentations: drawn from a key alone, each on its own, and uint8."""

import numpy as np
import pytest

from lit_ad.data.augment import A, Augment
from lit_ad.errors import UserError


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
