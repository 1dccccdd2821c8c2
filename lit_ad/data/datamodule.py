"""The one DataModule: splits, reads and loads the samples of any source."""

import math
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import cv2
import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, DistributedSampler

from lit_ad.batch import Batch, Tiling
from lit_ad.data.dataset import AnomalyDataset, Features, check_masks, collate, collate_equal, upright_size
from lit_ad.data.images import Images
from lit_ad.data.sample import Sample, Source, check
from lit_ad.data.transforms import Augment, Augmentation, Resize
from lit_ad.tiling import Grid, Tiles

CACHE_BYTES = 2**30  # what cache_images takes of the RAM without being asked


class AnomalyDataModule(L.LightningDataModule):
    """Nominal images to train and validate on, all kinds to test on, as batches of uint8 pixels.

    Validation is cut from the nominal training images, in each category, and never sees a test image.

    Args:
        source: Where the images are: lit_ad.data.MVTec, Folder, Demo, or your own Source.
        image_size: What the network sees: a side, or height and width. None: each image's own size.
        fit: "stretch" images to that size, or keep their aspect ratio and "pad" by reflection.
        interpolation: Of resizing, antialiased.
        multiple: Sides are padded to a multiple of this. None: the model's patch size.
        batch_size: In training, on each device.
        eval_batch_size: In validation, test and predict. None: batch_size, or with tiles 1.
        val_fraction: Part of the nominal training images that validates.
        split_seed: Of that choice.
        augment: Albumentations transforms for training, each a class_path with init_args; they must keep uint8.
        tile_size: Side of the tiles that images, of image_size, are cut into. None: no tiles.
        tile_overlap: Pixels that tiles share with their neighbours, or more; up to half a tile. In evaluation the maps
            of neighbours are blended over it. None: a quarter of a tile.
        tile_batch: Tiles that evaluation runs at once: bounds memory, whatever the image's size.
        train_tiles: Train on "all" tiles of all images, or on as many "random" crops, others in each epoch. A batch is
            then batch_size tiles.
        cache_images: Keep decoded and resized training and validation images in RAM (3 bytes a pixel, once in each
            training process). None: if image_size or tile_size is set and all take less than 1 GiB.
        cache_features: Compute the teacher's features of training and validation images once, and keep them on disk for
            all epochs and all later runs with the same teacher, transforms and files. Tiles of validation images are
            not cached.
        cache_dir: Where. None: $XDG_CACHE_HOME/lit_ad/features, which is ~/.cache/lit_ad/features if that is not set.
        cache_dtype: In which precision. float16 is 8 times finer than bfloat16 at the same size, and its range is
            enough for what teachers give (an error says if it is not).
        num_workers: Processes that load. None: none if images are cached and not augmented, else one less than there
            are cores for this process, at most 4.
        predict_path: Folder of images, or an image, for predict. None: predict runs over the test images.
    """

    def __init__(
        self,
        source: Source,
        image_size: int | tuple[int, int] | None = 256,
        fit: Literal["stretch", "pad"] = "stretch",
        interpolation: Literal["bilinear", "bicubic"] = "bilinear",
        multiple: int | None = None,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        val_fraction: float = 0.2,
        split_seed: int = 0,
        augment: list[Augmentation] | None = None,
        tile_size: int | None = None,
        tile_overlap: int | None = None,
        tile_batch: int = 8,
        train_tiles: Literal["all", "random"] = "all",
        cache_images: bool | None = None,
        cache_features: bool = False,
        cache_dir: Path | None = None,
        cache_dtype: Literal["float16", "bfloat16", "float32"] = "float16",
        num_workers: int | None = None,
        predict_path: Path | None = None,
    ) -> None:
        super().__init__()
        if not 0 < val_fraction < 1:
            raise ValueError(f"val_fraction is {val_fraction}, but it must lie between 0 and 1")
        if batch_size < 1 or (eval_batch_size or 1) < 1:
            raise ValueError("batch_size and eval_batch_size must be 1 or more")
        self.source, self.val_fraction, self.split_seed, self.predict_path = (
            source,
            val_fraction,
            split_seed,
            predict_path,
        )
        self._resize = Resize(image_size, fit, interpolation, multiple or 1)
        self.tiling: Tiling | None = None
        if tile_size is not None:
            self.tiling = Tiling(tile_size, tile_size // 4 if tile_overlap is None else tile_overlap, tile_batch)
            Grid((1, 1), tile_size, self.tiling.overlap)  # says if these are wrong, now
        self.train_tiles = train_tiles
        self.multiple, self.batch_size = multiple, batch_size
        self.eval_batch_size = eval_batch_size or (1 if self.tiling else batch_size)
        self.augment = Augment(augment) if augment else None
        random = (
            "data.augment" if augment else "data.train_tiles: random" if tile_size and train_tiles == "random" else ""
        )
        if cache_features and random:
            raise ValueError(
                f"data.cache_features computes the features of each training image once, but {random} shows another "
                "one in every epoch: give up one of them"
            )
        self.cache_features, self.cache_dir, self.cache_dtype = cache_features, cache_dir, cache_dtype
        self.cache_images, self.num_workers = cache_images, num_workers
        self._datasets: dict[str, AnomalyDataset] = {}

    # What there is.

    @cached_property
    def listed(self) -> dict[str, list[Sample]]:
        """The samples of each split: train, val and test. Raises ValueError if they cannot be trained on."""
        samples = self.source.samples()
        check(samples)
        check_masks(samples)  # now, and not after hours of training
        train, val = split_nominal([s for s in samples if s.split == "train"], self.val_fraction, self.split_seed)
        return {"train": train, "val": val, "test": [s for s in samples if s.split == "test"]}

    def prepare_data(self) -> None:
        self.source.prepare()

    def setup(self, stage: str | None = None) -> None:
        if stage != "predict" or self.predict_path is None:  # unlabelled images need no training images around
            _ = self.listed

    # What is loaded.

    def train_dataloader(self) -> DataLoader[Batch]:
        dataset = self._dataset("train", self.listed["train"], self.augment)
        sampler = Shuffle(dataset, *self._place, dataset.seed)
        return self._loader(dataset, self.batch_size, TrainLoader, sampler=sampler, collate_fn=collate_equal)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self._dataset("val", self.listed["val"]), self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Batch]:
        if not self.listed["test"]:
            raise ValueError(f"nothing to test on: the {type(self.source).__name__} source lists no test images")
        return self._loader(self._dataset("test", self.listed["test"]), self.eval_batch_size)

    def nominal_dataloader(self) -> DataLoader[Batch]:
        """The training images once, in order, without augmentation: this process's share of them, none twice."""
        processes, place = self._place
        train = self._dataset("train", self.listed["train"], self.augment)
        dataset = self._dataset("nominal", self.listed["train"])
        dataset.cache, dataset.features, dataset.pixels = train.cache, train.features, train.pixels
        if self.tiling is not None:
            dataset.tiles = self._tiles(dataset)
        return self._loader(dataset, self.batch_size, sampler=range(place, len(dataset), processes), collate_fn=collate)

    def predict_dataloader(self) -> DataLoader[Batch]:
        if self.predict_path is None:
            return self.test_dataloader()
        return self._loader(self._dataset("predict", Images(self.predict_path).samples()), self.eval_batch_size)

    # The teacher's features, computed once: AnomalyModule fills the cache, the datasets serve from it.

    def cacheable(self) -> Iterator[tuple[str, DataLoader[Batch], dict[str, Any]]]:
        """Each split to cache: its name, a loader of all of it in order, and what its pixels depend on."""
        for split in ("train", "val") if self.tiling is None else ("train",):
            dataset = self._dataset(split, self.listed[split])
            files = [
                (str(s.image.absolute()), s.image.stat().st_size, s.image.stat().st_mtime_ns) for s in dataset.samples
            ]
            tiling = None if self.tiling is None else [self.tiling.size, self.tiling.overlap]
            about = {"files": files, "resize": asdict(self.resize), "tiling": tiling}
            yield split, self._loader(dataset, self.batch_size, collate_fn=collate), about

    def serve_features(self, split: str, features: Features) -> None:
        """From now on the items of a split have features, and in training pixels only for a method that needs them."""
        dataset = self._dataset(split, self.listed[split])
        dataset.features = features
        dataset.pixels = split != "train" or self._needs_pixels

    # How it is loaded.

    @property
    def _needs_pixels(self) -> bool:
        """Whether training on cached features needs images beside them."""
        return bool(getattr(self.trainer.lightning_module, "uses_pixels", True)) if self.trainer else True

    @property
    def _place(self) -> tuple[int, int]:
        """Processes that train together, and which of them this is."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    @property
    def resize(self) -> Resize:
        """As asked for, at a multiple of the model's patch size."""
        model = self.trainer.lightning_module if self.trainer else None
        multiple = self.multiple or int(getattr(model, "patch_size", 1))
        if self.tiling is not None:  # it is the tiles that the network sees
            if self.tiling.size % multiple:
                near = max(1, round(self.tiling.size / multiple)) * multiple
                raise ValueError(
                    f"data.tile_size is {self.tiling.size}, but the model needs a multiple of {multiple}: try {near}"
                )
            multiple = 1
        return Resize(self._resize.image_size, self._resize.fit, self._resize.interpolation, multiple)

    def _dataset(self, split: str, samples: list[Sample], augment: Augment | None = None) -> AnomalyDataset:
        made = self._datasets.get(split)
        if made is None or made.samples != samples or made.resize != self.resize:
            seed = int(os.environ.get("PL_GLOBAL_SEED", 0))  # seed_everything's, as Lightning's own samplers read it
            made = self._datasets[split] = AnomalyDataset(samples, self.resize, augment, seed)
            if split == "train" and self.tiling is not None:
                made.tiles = self._tiles(made, self.train_tiles == "random")
        once = split == "train" and self.cache_features and not self._needs_pixels  # to compute features, if at all
        if split in ("train", "val") and made.cache is None and not once and self._caches:
            made.fill_cache(cores())
        return made

    def _tiles(self, dataset: AnomalyDataset, random: bool = False) -> Tiles:
        assert self.tiling is not None
        sizes = [self.resize.content(upright_size(sample.image)) for sample in dataset.samples]
        return Tiles(sizes, self.tiling.size, self.tiling.overlap, random)

    @property
    def _caches(self) -> bool:
        size = self.resize.size
        if self.cache_images is not None or (size is None and self.tiling is None):
            return bool(self.cache_images)
        samples = [*self.listed["train"], *self.listed["val"]]
        pixels = sum(math.prod(size or upright_size(sample.image)) for sample in samples)
        return 3 * pixels <= CACHE_BYTES and not getattr(self.trainer, "fast_dev_run", False)

    def _loader(
        self, dataset: AnomalyDataset, batch_size: int, loader: type[DataLoader[Batch]] = DataLoader, **kwargs: Any
    ) -> DataLoader[Batch]:
        workers = self.num_workers
        if workers is None:
            here = max(1, self.trainer.num_devices) if self.trainer else 1
            cheap = (dataset.cache is not None or not dataset.pixels) and dataset.augment is None
            workers = 0 if cheap else max(0, min(4, cores() // here - 1))
        return loader(
            dataset,
            batch_size=batch_size,  # by name, or Lightning cannot remake the loader for predict
            **{"collate_fn": partial(collate, tiling=self.tiling), **kwargs},
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=one_thread,
            generator=torch.Generator().manual_seed(dataset.seed),  # or each epoch draws from the model's randomness
        )


class Shuffle(DistributedSampler[int]):
    """An order that depends on seed and epoch alone; with one process or with many, each its own part."""

    def __init__(self, dataset: AnomalyDataset, replicas: int, rank: int, seed: int) -> None:
        super().__init__(dataset, replicas, rank, shuffle=True, seed=seed)
        self.shared_epoch = dataset.epoch
        self.start = 0  # how many of the next epoch's are left out

    def __iter__(self) -> Iterator[int]:
        self.shared_epoch.fill_(self.epoch)
        yield from islice(super().__iter__(), self.start, None)
        self.epoch += 1  # Lightning sets it at every epoch; a plain loop need not


class TrainLoader(DataLoader[Batch]):
    """Resumes within an epoch: Lightning keeps its state in the checkpoint."""

    dataset: AnomalyDataset
    sampler: Shuffle
    given = start = 0  # batches of this epoch so far, and before the next one's first

    def __iter__(self) -> Any:
        self.given, self.start = self.start, 0
        self.sampler.start = self.given * (self.batch_size or 1)
        return self._counted(super().__iter__())

    def _counted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self.given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"epoch": int(self.dataset.epoch), "batches": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.sampler.epoch, self.start = state["epoch"], state["batches"]


def split_nominal(samples: list[Sample], fraction: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Training and validation samples: in each category, `fraction` of them validates, at least one.

    Raises ValueError if there are not two.
    """
    categories: dict[str, list[int]] = defaultdict(list)
    for i, sample in enumerate(samples):
        categories[sample.category].append(i)
    if not categories:
        raise ValueError("no nominal image to train on: the source lists none")
    held: set[int] = set()
    for name, rows in categories.items():
        if len(rows) < 2:
            raise ValueError(
                f"category {name!r} has one nominal training image, {samples[rows[0]].image}, but it takes two or "
                "more: one is kept for validation"
            )
        count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        held.update(np.random.default_rng(seed).permutation(rows)[:count].tolist())
    train = [sample for i, sample in enumerate(samples) if i not in held]
    return train, [samples[i] for i in sorted(held)]


def cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_thread(worker: int) -> None:
    """As torch does in its workers, for OpenCV."""
    cv2.setNumThreads(0)
