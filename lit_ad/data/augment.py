"""Augment training images in uint8 by albumentations."""

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
from lit_ad.image.pixels import Pixels, Size, read_upright_size
from lit_ad.image.view import View

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # otherwise its import asks the network for a newer version
import albumentations as A

Augmentation: TypeAlias = A.BasicTransform | A.BaseCompose
_TRIALS = 16  # images of noise for each of the two ways in which `try_out` tests the transforms


class Augment:
    """Applies albumentations' transforms with random numbers from a key: equal keys give equal pixels in every process.

    Args:
        transforms: The transforms, applied in order.
    """

    def __init__(self, transforms: Sequence[Augmentation]) -> None:
        self.compose = A.Compose(list(transforms))

    def __call__(self, image: Pixels, key: Sequence[int]) -> Pixels:
        """Augment an image, (H, W, 3) -> (H', W', 3). Only a transform that crops or resizes changes the size.

        Raises:
            UserError: The result is not uint8 RGB.
        """
        # All transforms share one generator. Compose(seed=...) would give each transform its own generator with the
        # same seed, so that two flips of p=0.5 would always happen together.
        generator = np.random.default_rng(list(key))
        self.compose.set_random_state(generator, random.Random(int(generator.integers(2**63))))
        augmented = self.compose(image=image)["image"]
        if not isinstance(augmented, np.ndarray) or augmented.dtype != np.uint8 or augmented.shape[2:] != (3,):
            raise UserError(
                "data.augment must keep images uint8 RGB (no Normalize, ToFloat, ToTensorV2): the model normalises"
            )
        return augmented

    def try_out_smallest(self, view: View, samples: Sequence[Sample], alike: bool = True) -> None:
        """Call `try_out` for the smallest training images."""
        for size in find_smallest_inputs(view, samples):
            self.try_out(size, alike)

    def try_out(self, size: Size, alike: bool = True) -> None:
        """Augment noise a few times: first with every transform applied, then with their own probabilities.

        Args:
            size: Size (H, W) of training images.
            alike: Whether a batch has several images, which then need one size.

        Raises:
            UserError: A transform fails, for example a crop larger than the image, or the results differ in size.
        """
        noise = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
        always = copy.copy(self)
        always.compose = copy.deepcopy(self.compose)
        for transform in _list_nested(always.compose):
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
                f"data.augment turns images of {size[0]}x{size[1]} into several sizes, such as {examples}, but a batch "
                "needs one size: set p: 1.0 for each transform that changes the size, or set data.batch_size to 1"
            )


def make_augment(transforms: Sequence[Augmentation] | Kind | Path | None) -> Augment | None:
    """Make the augmentation; None if there are no transforms.

    Args:
        transforms: A list of transforms, a kind of Light, or a file for `load_transforms`.
    """
    if transforms in KINDS:
        return Augment([Light(transforms)])
    if isinstance(transforms, str | Path):
        transforms = load_transforms(resolve_path(transforms))
    return Augment(transforms) if transforms else None


def _list_nested(transform: Augmentation) -> Iterator[Any]:
    """Yield a transform and all transforms inside it."""
    yield transform
    for inner in getattr(transform, "transforms", []):
        yield from _list_nested(inner)


def find_smallest_inputs(view: View, samples: Sequence[Sample]) -> list[Size]:
    """Return the sizes (H, W) of the network inputs that are augmented. If the view keeps the images' sizes, these are
    the inputs of the image with the least height and of the image with the least width."""
    if view.tile is not None:
        return [(view.tile, view.tile)]
    blanks = [view.blank()]
    if view.size is None:
        sizes: list[Size] = []
        for sample in samples:
            with suppress(UserError):  # the dataset raises the error when it reads the image
                sizes.append(read_upright_size(sample.image))
        blanks = [np.zeros((*min(sizes, key=itemgetter(side)), 3), np.uint8) for side in (0, 1) if sizes]
    return [(seen.shape[0], seen.shape[1]) for seen, _ in map(view, blanks)]


def load_transforms(path: Path) -> list[Augmentation]:
    """Read the transforms in a file that albumentations' `A.save` wrote, YAML or JSON by its suffix. No code is run.

    Raises:
        UserError: The file does not exist, or was not written by `A.save`.
    """
    if not path.is_file():
        raise UserError(
            f"data.augment: {path} cannot be read as a file of albumentations' A.save: there is no such file (kinds of "
            f"light are {', '.join(KINDS)})"
        )
    kind = "yaml" if path.suffix.lower() in (".yaml", ".yml") else "json"
    try:
        return [A.load(path, data_format=kind)]
    except Exception as error:  # parsers and classes raise different ones
        raise UserError(
            f"data.augment: {path} cannot be read as a file of albumentations' A.save, in {kind.upper()} "
            f"({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        ) from error
