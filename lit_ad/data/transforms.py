"""From a decoded image to the network's canvas, in uint8; the model normalises, on its device."""

import math
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # or importing it asks the network for a newer version
import albumentations as A

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB
Box = tuple[int, int, int, int]  # top, left, bottom, right
Augmentation: TypeAlias = A.BasicTransform | A.BaseCompose


@dataclass(frozen=True)
class Resize:
    """Brings images to `image_size` (a side, or height and width; None keeps each image's own).

    "stretch" ignores the aspect ratio; "pad" keeps it, and fills the rest by reflection around the centred image. Then
    sides are filled up to a multiple of `multiple` in the same way. Shrinking is antialiased.
    """

    image_size: int | tuple[int, int] | None = 256
    fit: Literal["stretch", "pad"] = "stretch"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    multiple: int = 1

    def __post_init__(self) -> None:
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise ValueError(f"image_size is {self.image_size}, but it must be a side, or [height, width], in pixels")
        if self.multiple < 1:
            raise ValueError(f"multiple is {self.multiple}, but it must be 1 or more")

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width to reach, before `multiple`."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    def __call__(self, image: Pixels) -> tuple[Pixels, Box]:
        """(H0, W0, 3) -> (H, W, 3), and the box in it that the image's content fills."""
        canvas = self.size or (image.shape[0], image.shape[1])
        content = self.content((image.shape[0], image.shape[1]))
        if content != image.shape[:2]:
            method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[self.interpolation]
            image = np.asarray(Image.fromarray(image).resize(content[::-1], method))
        canvas = (self._filled(canvas[0]), self._filled(canvas[1]))
        top, left = (canvas[0] - content[0]) // 2, (canvas[1] - content[1]) // 2
        return fill(image, canvas, top, left), (top, left, top + content[0], left + content[1])

    def content(self, size: tuple[int, int]) -> tuple[int, int]:
        """What becomes of an image of this (height, width), without padding."""
        canvas = self.size or size
        if self.fit == "stretch":
            return canvas
        scale = min(canvas[0] / size[0], canvas[1] / size[1])
        return max(1, round(scale * size[0])), max(1, round(scale * size[1]))

    def _filled(self, side: int) -> int:
        return math.ceil(side / self.multiple) * self.multiple


def fill(image: Pixels, canvas: tuple[int, int], top: int = 0, left: int = 0) -> Pixels:
    """(h, w, 3) -> (H, W, 3): the image at (top, left), and its reflections around it."""
    bottom, right = canvas[0] - image.shape[0] - top, canvas[1] - image.shape[1] - left
    if not (top or left or bottom or right):
        return image
    return np.asarray(cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_REFLECT_101), np.uint8)


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
            raise ValueError(
                "data.augment must keep images uint8 RGB (no Normalize, ToFloat, ToTensorV2): the model normalises"
            )
        return augmented
