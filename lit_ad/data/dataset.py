"""Datasets that turn samples into items: images as RGB uint8 through the view, masks at their original size."""

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from lit_ad.batch import Batch, Sample
from lit_ad.data.augment import Augment
from lit_ad.data.corrupt import Corruption
from lit_ad.data.masks import read_truth
from lit_ad.data.sources.photographs import Unrelated
from lit_ad.errors import UserError
from lit_ad.image.pixels import Pixels, Size, read_image, read_upright_size
from lit_ad.image.tiling import Tiles
from lit_ad.image.view import Box, View, visible_box
from lit_ad.threads import Pool

ViewedImage = tuple[Pixels, Box, Size]  # an image as the network sees it, the box of its content, its original size


class AnomalyDataset(Dataset[Batch]):
    """A dataset whose items are a Batch of one image, or of one tile. Masks are read for test samples only.

    Args:
        samples: The images.
        view: How images become network inputs.
        augment: Augmentation of the images. None: none.
        seed: Seed of augmentations, random tiles, unrelated and corrupted images.
        tiles: The tiles, if items are tiles. None: items are images.
        unrelated: Gives each item an unrelated image of its size, another one in each epoch. None: none.
        corrupt: Gives each item a corrupted copy, with another defect in each epoch. None: none.
        cache: The images that `fill_cache` has read, of a dataset with the same samples and view. None: not cached.
    """

    has_pixels = True  # items have images; those of a FeatureDataset may have features instead

    def __init__(
        self,
        samples: Sequence[Sample],
        view: View,
        augment: Augment | None = None,
        seed: int = 0,
        tiles: Tiles | None = None,
        unrelated: Unrelated | None = None,
        corrupt: Corruption | None = None,
        cache: list[ViewedImage] | None = None,
    ) -> None:
        self.samples, self.view, self.augment, self.seed, self.tiles = list(samples), view, augment, seed, tiles
        self.unrelated, self.corrupt = unrelated, corrupt
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # shared, so that workers know the epoch
        self.cache = cache
        self.last: tuple[int, ViewedImage] | None = None  # number and content of the latest image, for its next tile

    @property
    def is_in_memory(self) -> bool:
        """Whether returning an item needs neither reading an image file nor changing an image."""
        return self.cache is not None and all(part is None for part in (self.augment, self.unrelated, self.corrupt))

    def __len__(self) -> int:
        return len(self.samples) if self.tiles is None else len(self.tiles)

    def list_categories(self) -> list[str]:
        """Return the category of each item."""
        images = range(len(self)) if self.tiles is None else map(self.tiles.image, range(len(self)))
        return [self.samples[number].category for number in images]

    def __getitem__(self, index: int) -> Batch:
        return self.load_item(index)

    def load_item(self, index: int, pixels: bool = True) -> Batch:
        """Return an item as a batch of one. If `pixels` is false, the batch has no pixels, and no image file is read.

        Raises:
            UserError: The image cannot be read. An image to predict gets the error in its sample instead.
        """
        number = index if self.tiles is None else self.tiles.image(index)
        sample = self.samples[number]
        image: Pixels | None = None
        box, size = (0, 0, 0, 0), (0, 0)
        if pixels:
            try:
                image, box, size = self._load_item(index, number)
            except UserError as error:
                if sample.split != "predict":
                    raise
                sample = sample._replace(error=str(error))  # one bad file must not end a prediction of thousands
                image, box = self.view(blank := self.view.blank())
                size = (blank.shape[0], blank.shape[1])
                image = image.copy()  # Pillow's array is read-only
        others = {} if image is None else self._make_others(image, box, (self.seed, int(self.epoch), index))
        return Batch(
            pixels=None if image is None else as_tensor(image),
            index=torch.tensor([index]),
            samples=[sample],
            sizes=[size],
            boxes=[box],
            masks=[read_truth(sample, size)] if sample.split == "test" else None,
            **others,
        )

    def _make_others(self, image: Pixels, box: Box, key: tuple[int, int, int]) -> dict[str, Any]:
        """Return the unrelated and the corrupted image of an item, by their names in Batch.

        Args:
            image: The item's image, (H, W, 3).
            box: The box of its content; padding gets no defects.
            key: Seed, epoch and item.
        """
        others: dict[str, Any] = {}
        unrelated = None if self.unrelated is None else self.unrelated((image.shape[0], image.shape[1]), key)
        if unrelated is not None:
            others["unrelated"] = as_tensor(unrelated)
        if self.corrupt is not None:
            top, left, bottom, right = visible_box(box, (image.shape[0], image.shape[1]))
            content = (slice(top, bottom), slice(left, right))
            inside = self.view.inside((image.shape[0], image.shape[1]), box) if self.tiles is None else None
            corrupted, corruption = image.copy(), np.zeros((*image.shape[:2], 1), np.bool_)
            texture = None if unrelated is None else unrelated[content]
            corrupted[content], corruption[content][..., 0] = self.corrupt(image[content], key, texture, inside)
            others |= {"corrupted": as_tensor(corrupted), "corruption": as_tensor(corruption)}
        return others

    def plain(self) -> "AnomalyDataset":
        """Return a dataset of the same images, or of their tiles if the view has some, in order and not augmented."""
        return AnomalyDataset(self.samples, self.view, tiles=lay_out_tiles(self.samples, self.view), cache=self.cache)

    def fill_cache(self, threads: int) -> None:
        """Decode and resize every image once, and keep it in memory: 3 bytes for each pixel of the network's size.
        Workers that are forked later share the memory."""
        with Pool(threads) as pool:
            images = pool.map(self._read, self.samples)
            hidden = True if len(self.samples) < 100 else None  # None: shown on a terminal
            self.cache = list(tqdm(images, "Reading images", len(self.samples), leave=False, disable=hidden))

    def _load_item(self, index: int, number: int) -> ViewedImage:
        """Return the image, or its tile, augmented."""
        image, box, size = self._load_image(number)
        key = (self.seed, int(self.epoch))
        if self.tiles is not None:
            top, left, bottom, right = box
            content = image[top:bottom, left:right].transpose(2, 0, 1)
            image = np.ascontiguousarray(self.tiles.cut(content, index, key).transpose(1, 2, 0))
            box = (0, 0, *image.shape[:2])
        if self.augment is not None:
            shape, image = image.shape, self.augment(image, (*key, index))
            box = box if image.shape == shape else (0, 0, *image.shape[:2])
        return image, box, size

    def _load_image(self, number: int) -> ViewedImage:
        """Return an image from the cache, or from its file."""
        if self.cache is not None:
            image, box, size = self.cache[number]
            return (image.copy() if self.tiles is None else image), box, size  # a copy: the cache must not change
        if self.tiles is None:
            return self._read(self.samples[number])
        if self.last is None or self.last[0] != number:
            self.last = (number, self._read(self.samples[number]))
        return self.last[1]

    def _read(self, sample: Sample) -> ViewedImage:
        """Read an image through the view. Raises UserError if that fails; the message names the file."""
        image = read_image(sample.image, self.view.levels)
        size = (image.shape[0], image.shape[1])
        try:
            image, box = self.view(image)
        except UserError as error:
            raise UserError(f"{sample.image}: {error}") from error
        return np.require(image, requirements=["C", "W"]), box, size


class SplitDatasets:
    """Makes the dataset of each split at its first use, and keeps it, because it may hold the images in memory.

    Args:
        augment: Augmentation of training images. None: none.
        unrelated: Folder of photographs; each training image gets one. None: none.
        corrupt: Makes a corrupted copy of each training image. None: none.
        random_tiles: Whether training takes random crops instead of all tiles, if the view has tiles.
    """

    def __init__(
        self, augment: Augment | None, unrelated: Path | None, corrupt: Corruption | None, random_tiles: bool
    ) -> None:
        self.augment, self.folder, self.corrupt, self.random_tiles = augment, unrelated, corrupt, random_tiles
        self._made: dict[str, AnomalyDataset] = {}

    @cached_property
    def unrelated(self) -> Unrelated | None:
        """The unrelated photographs; None if there is no folder of them. Raises UserError if it has no image."""
        return None if self.folder is None else Unrelated(self.folder)

    def random_setting(self, view: View) -> str | None:
        """Return the key of the setting that changes training images in every epoch; None if there is none."""
        if self.augment is not None:
            return "data.augment"
        return "data.loading.train_tiles: random" if view.tile is not None and self.random_tiles else None

    def choices(self) -> dict[str, Any]:
        """Return the settings that change training images, by key, as text."""
        return {
            "data.augment": str(self.augment.compose) if self.augment else None,
            "data.unrelated": str(self.folder) if self.folder else None,
            "data.corrupt": str(self.corrupt) if self.corrupt else None,
        }

    def check_training(self, samples: Sequence[Sample], view: View, batch_size: int) -> None:
        """Raise UserError if these training images cannot be augmented, or if there is no unrelated image."""
        _ = self.unrelated  # every process lists the folder, so that all of them end if it is empty
        if self.augment is not None:
            self.augment.try_out_smallest(view, samples, alike=batch_size > 1)

    def dataset(self, split: str, samples: Sequence[Sample], view: View, seed: int) -> AnomalyDataset:
        """Return the dataset of a split. If samples, view and seed are as before, it is the same dataset."""
        made = self._made.get(split)
        if made is not None and (made.samples, made.view, made.seed) == (samples, view, seed):
            return made
        if split == "train":
            tiles = lay_out_tiles(samples, view, self.random_tiles)
            made = AnomalyDataset(samples, view, self.augment, seed, tiles, self.unrelated, self.corrupt)
        else:
            made = AnomalyDataset(samples, view, seed=seed)
        self._made[split] = made
        return made


def lay_out_tiles(samples: Sequence[Sample], view: View, random: bool = False) -> Tiles | None:
    """Return the tiles of images, or random crops that differ in each epoch; None if the view has no tiles."""
    grid = view.grid((1, 1))
    if grid is None:
        return None
    sizes = [view.content(read_upright_size(sample.image)) for sample in samples]
    return Tiles(sizes, grid.tile, grid.overlap, random)


def find_rows(part: AnomalyDataset, dataset: AnomalyDataset) -> list[int]:
    """Return the index in `dataset` of each item of `part`, which has some of the images of `dataset`, cut into the
    same tiles."""
    rows = defaultdict(list)
    for item in range(len(dataset)):
        number = item if dataset.tiles is None else dataset.tiles.image(item)
        rows[dataset.samples[number]].append(item)
    return [row for sample in part.samples for row in rows[sample]]


def as_tensor(image: Pixels | NDArray[np.bool_]) -> Tensor:
    """(H, W, C) -> (1, C, H, W) without a copy: the memory stays channels last, which convolutions read fastest."""
    return torch.from_numpy(image).permute(2, 0, 1)[None]
