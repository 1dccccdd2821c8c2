"""Items to batches, in an order that depends on the seed alone, resumable within an epoch."""

import os
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from lit_ad.batch import Batch
from lit_ad.data.dataset import AnomalyDataset
from lit_ad.errors import UserError
from lit_ad.view import fill


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
    """Resumes within an epoch: Lightning keeps its state in the checkpoint.

    torchdata's StatefulDataLoader would do so as well, by a copy of torch's loader that follows torch's private parts;
    since the order depends on seed and epoch alone, a count of batches is all the state there is.
    """

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


def collate(items: list[Batch]) -> Batch:
    """B batches of one -> one batch of B, smaller images filled up at the bottom and right by reflection."""
    pixels = [item.pixels for item in items if item.pixels is not None]
    if any(image.shape != pixels[0].shape for image in pixels):
        canvas = (max(image.shape[2] for image in pixels), max(image.shape[3] for image in pixels))
        filled = [fill(image[0].permute(1, 2, 0).numpy(), canvas) for image in pixels]
        pixels = [torch.from_numpy(image).permute(2, 0, 1)[None] for image in filled]
    features = [item.features for item in items if item.features is not None]
    return Batch(
        pixels=join(pixels) if pixels else None,
        index=torch.cat([item.index for item in items]),
        samples=[item.samples[0] for item in items],
        sizes=[item.sizes[0] for item in items],
        boxes=[item.boxes[0] for item in items],
        masks=[item.masks[0] if item.masks else None for item in items] if any(item.masks for item in items) else None,
        features=[join(list(level)) for level in zip(*features, strict=True)] if features else None,
    )


def collate_equal(items: list[Batch]) -> Batch:
    """`collate` for training. Raises UserError on images of different sizes."""
    sizes = {tuple(item.pixels.shape[2:]): item.samples[0].image for item in items if item.pixels is not None}
    if len(sizes) > 1:
        (one, first), (two, second), *_ = sizes.items()
        raise UserError(
            f"training images of different sizes, {one} {first} and {two} {second}: set model.view.image_size, or "
            "model.view.tile to train on tiles"
        )
    return collate(items)


def join(rows: list[Tensor]) -> Tensor:
    """B x (1, ...) -> (B, ...); a single one, which may be large, is not copied."""
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_thread(worker: int) -> None:
    """As torch does in its workers, for OpenCV, which albumentations runs on."""
    import cv2

    cv2.setNumThreads(0)
