"""Augmentations of training images, by albumentations, in uint8."""

import copy
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from lit_ad.batch import Sample
from lit_ad.data.light import KINDS, Kind, Light
from lit_ad.errors import UserError
from lit_ad.files import resolve_path
from lit_ad.image.pixels import Pixels, Size, upright_size
from lit_ad.image.view import View

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # or importing it asks the network for a newer version
import albumentations as A

Augmentation: TypeAlias = A.BasicTransform | A.BaseCompose
_TRIALS = 16  # draws before a training


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

    def try_out_smallest(self, view: View, samples: Sequence[Sample], alike: bool = True) -> None:
        """Augment noise of the size of the smallest training images, as `try_out` does."""
        for size in smallest_inputs(view, samples):
            self.try_out(size, alike)

    def try_out(self, size: Size, alike: bool = True) -> None:
        """Augment noise of a size (H, W) a few times, with each transform applied, and with their own chances.

        Args:
            size: Of the images that training shows.
            alike: Whether several of them make a batch, and so need one size.

        Raises:
            UserError: A transform fails, as a crop larger than the image does, or the results have several sizes.
        """
        noise = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
        always = copy.copy(self)
        always.compose = copy.deepcopy(self.compose)
        for transform in nested(always.compose):
            if isinstance(transform, A.OneOf):
                transform.transforms_ps = [1 / len(transform.transforms)] * len(transform.transforms)
            transform.p = 0.5 if isinstance(transform, A.OneOrOther) else 1.0
        sizes: set[Size] = set()
        for augment in (always, self):
            for trial in range(_TRIALS):
                try:
                    height, width, _ = augment(noise, (trial,)).shape
                except UserError:
                    raise
                except Exception as error:  # each transform raises its own
                    raise UserError(
                        f"data.augment fails on training images of {size[0]}x{size[1]}: {type(error).__name__}: "
                        + str(error).partition("\n")[0]
                    ) from error
                sizes.add((height, width))
        if alike and len(sizes) > 1:
            examples = " and ".join(f"{height}x{width}" for height, width in sorted(sizes)[:2])
            raise UserError(
                f"data.augment makes images of several sizes of those of {size[0]}x{size[1]}, such as {examples}, but "
                "a batch has one: give transforms that change the size p: 1.0, or data.batch_size 1"
            )


def make_augment(transforms: Sequence[Augmentation] | Kind | Path | None) -> Augment | None:
    """Return the augmentation by a list of transforms, by a kind of Light, or by the file of `load_transforms`; None:
    there are none."""
    if transforms in KINDS:
        return Augment([Light(transforms)])
    if isinstance(transforms, str | Path):
        transforms = load_transforms(resolve_path(transforms))
    return Augment(transforms) if transforms else None


def nested(transform: Augmentation) -> Iterator[Any]:
    """A transform, and all that are in it."""
    yield transform
    for inner in getattr(transform, "transforms", []):
        yield from nested(inner)


def smallest_inputs(view: View, samples: Sequence[Sample]) -> list[Size]:
    """The heights and widths of what is augmented: of the smallest images, where the view leaves images their size."""
    if view.tile is not None:
        return [(view.tile, view.tile)]
    blanks = [view.blank()]
    if view.size is None:
        sizes: list[Size] = []
        for sample in samples:
            with suppress(UserError):  # that it cannot be read is told by who reads it
                sizes.append(upright_size(sample.image))
        blanks = [np.zeros((*min(sizes, key=itemgetter(side)), 3), np.uint8) for side in (0, 1) if sizes]
    return [(seen.shape[0], seen.shape[1]) for seen, _ in map(view, blanks)]


def load_transforms(path: Path) -> list[Augmentation]:
    """What is in a file that albumentations' `A.save` wrote: JSON, or YAML by its suffix. It runs no code.

    Raises:
        UserError: There is no such file, or it is another one.
    """
    if not path.is_file():
        raise UserError(
            f"data.augment: {path} cannot be read as a file of albumentations' A.save: there is no such file (kinds of "
            f"light are {', '.join(KINDS)})"
        )
    kind = "yaml" if path.suffix.lower() in (".yaml", ".yml") else "json"
    try:
        return [A.load(path, data_format=kind)]
    except Exception as error:  # of the parsers, of the table of classes, of each class
        raise UserError(
            f"data.augment: {path} cannot be read as a file of albumentations' A.save, in {kind.upper()} "
            f"({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        ) from error
