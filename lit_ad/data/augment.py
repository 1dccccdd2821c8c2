"""Augmentations of training images, by albumentations, in uint8."""

import os
import random
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from lit_ad.errors import UserError
from lit_ad.image.pixels import Pixels

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # or importing it asks the network for a newer version
import albumentations as A

Augmentation: TypeAlias = A.BasicTransform | A.BaseCompose


class Augment:
    """Albumentations, drawn from a key: the same image, epoch and seed give the same pixels in any process."""

    def __init__(self, transforms: Sequence[Augmentation]) -> None:
        self.compose = A.Compose(list(transforms))

    def __call__(self, image: Pixels, key: Sequence[int]) -> Pixels:
        """(H, W, 3) -> (H', W', 3), where only a cropping or resizing transform changes the size."""
        # One generator for all transforms: Compose(seed=...) gives each its own with the same seed, and then two
        # flips of p=0.5 always happen together.
        generator = np.random.default_rng(list(key))
        self.compose.set_random_state(generator, random.Random(int(generator.integers(2**63))))
        augmented = self.compose(image=image)["image"]
        if not isinstance(augmented, np.ndarray) or augmented.dtype != np.uint8 or augmented.shape[2:] != (3,):
            raise UserError(
                "data.augment must keep images uint8 RGB (no Normalize, ToFloat, ToTensorV2): the model normalises"
            )
        return augmented
