"""Samples as items: files to RGB uint8 as the view wants them, masks at their own size."""

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
from lit_ad.image.pixels import Pixels, Size, read_image, upright_size
from lit_ad.image.tiling import Tiles
from lit_ad.image.view import Box, View, visible_box
from lit_ad.threads import Pool

Seen = tuple[Pixels, Box, Size]  # an image as the network sees it, the box of its content, its original size


class AnomalyDataset(Dataset[Batch]):
    """Each item is a Batch of one image, or of one tile of it. Masks are read for test samples alone.

    Args:
        samples: What there is.
        view: What the network sees of it.
        augment: Of training images.
        seed: Of augmentations and random tiles.
        tiles: Where the items are tiles.
        unrelated: Where each item has an unrelated image beside it, of its size, another one in each epoch.
        corrupt: Where each item has a corrupted image beside it, corrupted otherwise in each epoch.
        cache: The images as `fill_cache` of a dataset of the same samples and view has read them.
    """

    has_pixels = True

    def __init__(
        self,
        samples: Sequence[Sample],
        view: View,
        augment: Augment | None = None,
        seed: int = 0,
        tiles: Tiles | None = None,
        unrelated: Unrelated | None = None,
        corrupt: Corruption | None = None,
        cache: list[Seen] | None = None,
    ) -> None:
        self.samples, self.view, self.augment, self.seed, self.tiles = list(samples), view, augment, seed, tiles
        self.unrelated, self.corrupt = unrelated, corrupt
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # augmentations differ by epoch, in workers too
        self.cache = cache
        self.last: tuple[int, Seen] | None = None  # tiles in order: each image is read once

    @property
    def is_in_memory(self) -> bool:
        """Whether an item is there without that an image file is read or an image is changed."""
        return self.cache is not None and all(part is None for part in (self.augment, self.unrelated, self.corrupt))

    def __len__(self) -> int:
        return len(self.samples) if self.tiles is None else len(self.tiles)

    def categories(self) -> list[str]:
        """Of each item."""
        images = range(len(self)) if self.tiles is None else map(self.tiles.image, range(len(self)))
        return [self.samples[number].category for number in images]

    def __getitem__(self, index: int) -> Batch:
        return self.item(index)

    def item(self, index: int, pixels: bool = True) -> Batch:
        """Return an item, with its image or without; without, no image is read."""
        number = index if self.tiles is None else self.tiles.image(index)
        sample = self.samples[number]
        image: Pixels | None = None
        box, size = (0, 0, 0, 0), (0, 0)
        if pixels:
            try:
                image, box, size = self._item(index, number)
            except UserError as error:
                if sample.split != "predict":
                    raise
                sample = sample._replace(error=str(error))  # one bad file does not end the prediction of thousands
                image, box = self.view(blank := self.view.blank())
                size = (blank.shape[0], blank.shape[1])
                image = image.copy()  # Pillow's is not to be written to
        others = {} if image is None else self._others(image, box, (self.seed, int(self.epoch), index))
        return Batch(
            pixels=None if image is None else as_tensor(image),
            index=torch.tensor([index]),
            samples=[sample],
            sizes=[size],
            boxes=[box],
            masks=[read_truth(sample, size)] if sample.split == "test" else None,
            **others,
        )

    def _others(self, image: Pixels, box: Box, key: tuple[int, int, int]) -> dict[str, Any]:
        """What an item has beside its image (H, W, 3), by the names in Batch, drawn from a key."""
        others: dict[str, Any] = {}
        unrelated = None if self.unrelated is None else self.unrelated((image.shape[0], image.shape[1]), key)
        if unrelated is not None:
            others["unrelated"] = as_tensor(unrelated)
        if self.corrupt is not None:
            top, left, bottom, right = visible_box(box, (image.shape[0], image.shape[1]))
            content = (slice(top, bottom), slice(left, right))  # padding has no defects
            inside = self.view.inside((image.shape[0], image.shape[1]), box) if self.tiles is None else None
            corrupted, corruption = image.copy(), np.zeros((*image.shape[:2], 1), np.bool_)
            texture = None if unrelated is None else unrelated[content]
            corrupted[content], corruption[content][..., 0] = self.corrupt(image[content], key, texture, inside)
            others |= {"corrupted": as_tensor(corrupted), "corruption": as_tensor(corruption)}
        return others

    def plain(self) -> "AnomalyDataset":
        """Return a dataset of the same images in order: by tiles where the view has them, and not augmented."""
        return AnomalyDataset(self.samples, self.view, tiles=lay_out_tiles(self.samples, self.view), cache=self.cache)

    def fill_cache(self, threads: int) -> None:
        """Decode and resize every image once, 3 bytes a pixel of the network's size. Workers forked later share it."""
        with Pool(threads) as pool:
            images = pool.map(self._read, self.samples)
            self.cache = list(
                tqdm(images, "Reading images", len(self.samples), leave=False, disable=len(self.samples) < 100)
            )

    def _item(self, index: int, number: int) -> Seen:
        """The image, or the tile of it, augmented."""
        image, box, size = self._image(number)
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

    def _image(self, number: int) -> Seen:
        if self.cache is not None:
            image, box, size = self.cache[number]
            return (image.copy() if self.tiles is None else image), box, size  # nobody writes to the cache
        if self.tiles is None:
            return self._read(self.samples[number])
        if self.last is None or self.last[0] != number:
            self.last = (number, self._read(self.samples[number]))
        return self.last[1]

    def _read(self, sample: Sample) -> Seen:
        image = read_image(sample.image, self.view.levels)
        size = (image.shape[0], image.shape[1])
        try:
            image, box = self.view(image)
        except UserError as error:
            raise UserError(f"{sample.image}: {error}") from error
        return np.require(image, requirements=["C", "W"]), box, size


class SplitDatasets:
    """The dataset of each split, made when it is first asked for, and kept, since it may hold the images in memory.

    Args:
        augment: Of training images.
        unrelated: Folder of photographs, one of which is beside each training image.
        corrupt: Makes the corrupted image beside each training image.
        random_tiles: Whether training takes random crops where the view has tiles.
    """

    def __init__(
        self, augment: Augment | None, unrelated: Path | None, corrupt: Corruption | None, random_tiles: bool
    ) -> None:
        self.augment, self.folder, self.corrupt, self.random_tiles = augment, unrelated, corrupt, random_tiles
        self._made: dict[str, AnomalyDataset] = {}

    @cached_property
    def unrelated(self) -> Unrelated | None:
        """Raises UserError if there is no image in the folder."""
        return None if self.folder is None else Unrelated(self.folder)

    def random_setting(self, view: View) -> str | None:
        """Return the setting that shows another image in every epoch; None: there is none."""
        if self.augment is not None:
            return "data.augment"
        return "data.loading.train_tiles: random" if view.tile is not None and self.random_tiles else None

    def choices(self) -> dict[str, Any]:
        """Return what is done to training images, by the names of the keys, in words."""
        return {
            "data.augment": str(self.augment.compose) if self.augment else None,
            "data.unrelated": str(self.folder) if self.folder else None,
            "data.corrupt": str(self.corrupt) if self.corrupt else None,
        }

    def check_training(self, samples: Sequence[Sample], view: View, batch_size: int) -> None:
        """Raises UserError if these training images cannot be augmented, or there is no unrelated one."""
        _ = self.unrelated  # every process lists them, so that all of them end if there are none
        if self.augment is not None:
            self.augment.try_out_smallest(view, samples, alike=batch_size > 1)

    def images(self, split: str, samples: Sequence[Sample], view: View, seed: int) -> AnomalyDataset:
        """Return the images of a split; the same dataset as before, if samples, view and seed are the same."""
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
    """Return the tiles of images; None where the view has none. Random ones are crops, others in each epoch."""
    grid = view.grid((1, 1))
    if grid is None:
        return None
    sizes = [view.content(upright_size(sample.image)) for sample in samples]
    return Tiles(sizes, grid.tile, grid.overlap, random)


def rows_of(part: AnomalyDataset, dataset: AnomalyDataset) -> list[int]:
    """Return the numbers that the items of a dataset have in one of more images, tiled alike."""
    rows = defaultdict(list)
    for item in range(len(dataset)):
        number = item if dataset.tiles is None else dataset.tiles.image(item)
        rows[dataset.samples[number]].append(item)
    return [row for sample in part.samples for row in rows[sample]]


def as_tensor(image: Pixels | NDArray[np.bool_]) -> Tensor:
    """(H, W, C) -> (1, C, H, W), channels last as the file has them: no copy, and the layout convolutions like best."""
    return torch.from_numpy(image).permute(2, 0, 1)[None]
