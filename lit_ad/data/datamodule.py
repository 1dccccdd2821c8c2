"""The one DataModule: splits, reads and loads the samples of any source."""

import os
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import cv2
import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, DistributedSampler

from lit_ad.batch import Batch
from lit_ad.data.dataset import AnomalyDataset, collate, collate_equal
from lit_ad.data.images import Images
from lit_ad.data.sample import Sample, Source, check
from lit_ad.data.transforms import Augment, Augmentation, Resize

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
        batch_size: In training, on each device. Remaining images sit an epoch out.
        eval_batch_size: In validation, test and predict. None: batch_size.
        val_fraction: Part of the nominal training images that validates.
        split_seed: Of that choice.
        augment: Albumentations transforms for training, each a class_path with init_args; they must keep uint8.
        cache_images: Keep decoded and resized training and validation images in RAM (3 bytes a pixel, once in each
            training process). None: if image_size is set and all take less than 1 GiB.
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
        cache_images: bool | None = None,
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
        self.multiple, self.batch_size, self.eval_batch_size = multiple, batch_size, eval_batch_size or batch_size
        self.augment = Augment(augment) if augment else None
        self.cache_images, self.num_workers = cache_images, num_workers
        self._datasets: dict[str, AnomalyDataset] = {}

    # What there is.

    @cached_property
    def listed(self) -> dict[str, list[Sample]]:
        """The samples of each split: train, val and test. Raises ValueError if they cannot be trained on."""
        samples = self.source.samples()
        check(samples)
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
        full = sampler.num_samples >= self.batch_size
        return self._loader(dataset, self.batch_size, sampler=sampler, drop_last=full, collate_fn=collate_equal)

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
        dataset.cache = train.cache
        return self._loader(dataset, self.eval_batch_size, sampler=range(place, len(dataset), processes))

    def predict_dataloader(self) -> DataLoader[Batch]:
        if self.predict_path is None:
            return self.test_dataloader()
        return self._loader(self._dataset("predict", Images(self.predict_path).samples()), self.eval_batch_size)

    # How it is loaded.

    @property
    def _place(self) -> tuple[int, int]:
        """Processes that train together, and which of them this is."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    @property
    def resize(self) -> Resize:
        """As asked for, at a multiple of the model's patch size."""
        model = self.trainer.lightning_module if self.trainer else None
        multiple = self.multiple or int(getattr(model, "patch_size", 1))
        return Resize(self._resize.image_size, self._resize.fit, self._resize.interpolation, multiple)

    def _dataset(self, split: str, samples: list[Sample], augment: Augment | None = None) -> AnomalyDataset:
        made = self._datasets.get(split)
        if made is None or made.samples != samples or made.resize != self.resize:
            seed = int(os.environ.get("PL_GLOBAL_SEED", 0))  # seed_everything's, as Lightning's own samplers read it
            made = self._datasets[split] = AnomalyDataset(samples, self.resize, augment, seed)
        if split in ("train", "val") and made.cache is None and self._caches:
            made.fill_cache(cores())
        return made

    @property
    def _caches(self) -> bool:
        size = self.resize.size
        if self.cache_images is not None or size is None:
            return bool(self.cache_images)
        pixels = size[0] * size[1] * (len(self.listed["train"]) + len(self.listed["val"]))
        return 3 * pixels <= CACHE_BYTES and not getattr(self.trainer, "fast_dev_run", False)

    def _loader(self, dataset: AnomalyDataset, batch_size: int, **kwargs: Any) -> DataLoader[Batch]:
        workers = self.num_workers
        if workers is None:
            here = max(1, self.trainer.num_devices) if self.trainer else 1
            cheap = dataset.cache is not None and dataset.augment is None
            workers = 0 if cheap else max(0, min(4, cores() // here - 1))
        return DataLoader(
            dataset,
            batch_size=batch_size,  # by name, or Lightning cannot remake the loader for predict
            **{"collate_fn": collate, **kwargs},
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

    def __iter__(self) -> Iterator[int]:
        self.shared_epoch.fill_(self.epoch)
        yield from super().__iter__()
        self.epoch += 1  # Lightning sets it at every epoch; a plain loop need not


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
