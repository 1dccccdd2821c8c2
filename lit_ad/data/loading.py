"""Items to batches, in an order that depends on the seed alone, resumable within an epoch."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import DataLoader, DistributedSampler

from lit_ad.batch import Batch
from lit_ad.data.dataset import AnomalyDataset
from lit_ad.errors import UserError
from lit_ad.features.dataset import Items
from lit_ad.image.pixels import Size
from lit_ad.machine import cores, memory
from lit_ad.threads import Pool


class Shuffle(DistributedSampler[int]):
    """An order that depends on seed and epoch alone; with one process or with many, each its own part.

    Balanced, an epoch has as many items as ever, and as many of each category.
    """

    def __init__(self, dataset: AnomalyDataset, replicas: int, rank: int, seed: int, balanced: bool = False) -> None:
        super().__init__(dataset, replicas, rank, shuffle=True, seed=seed)
        self.shared_epoch = dataset.epoch
        self.categories = dataset.categories() if balanced else None
        self.start = 0  # how many of the next epoch's are left out
        self.resumed: int | None = None  # the epoch of a checkpoint, until it is told what Lightning takes it for
        self.shift = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning counts an epoch that ended early, by max_steps, as a whole one, and then goes on within it."""
        if self.resumed is not None:
            self.shift, self.resumed = self.resumed - epoch, None
        super().set_epoch(epoch + self.shift)

    def __iter__(self) -> Iterator[int]:
        self.shared_epoch.fill_(self.epoch)
        order = super().__iter__()
        if self.categories is not None:
            drawn = draw_alike(self.categories, (self.seed, self.epoch))
            order = (drawn[place] for place in order)
        yield from islice(order, self.start, None)
        self.epoch += 1  # Lightning sets it at every epoch; a plain loop need not


class Share(DistributedSampler[int]):
    """This process's share of some items, in order: every n-th of them, none twice.

    Lightning replaces any sampler that is no DistributedSampler by one that repeats items. A process that has no batch
    skips the loop with its hooks, in which processes meet (`skip` in Lightning's evaluation_loop.py and
    prediction_loop.py): the others would wait for it. So each share is as long as the longest, and at least 1, while a
    shorter one gives fewer items, or none; Lightning ends a loop where its loader ends.

    Args:
        items: The numbers of all processes together.
        processes: How many they are.
        place: Which of them this is.
    """

    def __init__(self, items: Sequence[int], processes: int, place: int) -> None:
        super().__init__(items, processes, place, shuffle=False)  # type: ignore[arg-type]  # only its length is asked
        self.items = items[place::processes]

    def __iter__(self) -> Iterator[int]:
        return iter(self.items)

    def __len__(self) -> int:
        return max(1, super().__len__())


def draw_alike(categories: list[str], seed: tuple[int, int]) -> list[int]:
    """As many items as there are, of each category alike (to one): of small ones repeatedly, of large ones a part.

    Each category is gone through in random order, whole before an item comes again.

    Args:
        categories: Of each item.
        seed: And epoch.
    """
    generator, rows = np.random.default_rng(seed), defaultdict(list)
    for item, category in enumerate(categories):
        rows[category].append(item)
    counts = np.full(len(rows), len(categories) // len(rows))
    counts[generator.permutation(len(rows))[: len(categories) % len(rows)]] += 1
    drawn: list[int] = []
    for mine, count in zip(rows.values(), counts, strict=True):
        rounds = [generator.permutation(mine) for _ in range(-(-count // len(mine)))]
        drawn += np.concatenate(rounds)[:count].tolist() if rounds else []
    return drawn


class TrainLoader(DataLoader[Batch]):
    """Resumes within an epoch: Lightning keeps its state in the checkpoint.

    torchdata's StatefulDataLoader would do so as well, by a copy of torch's loader that follows torch's private parts;
    since the order depends on seed and epoch alone, a count of batches is all the state there is.
    """

    dataset: Items  # type: ignore[assignment]
    sampler: Shuffle
    given = start = 0  # batches of this epoch so far, and before the next one's first

    def __iter__(self) -> Any:
        self.given, self.start = self.start, 0
        self.sampler.start = self.given * (self.batch_size or 1)
        return self._counted()

    def _counted(self) -> Iterator[Batch]:
        """Workers begin with the first batch that is asked for: an iterator that Lightning makes to count steps has
        none."""
        for batch in super().__iter__():
            self.given += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": int(self.sampler.shared_epoch), "batches": self.given, "order": self.order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises UserError if batches that were given before are not the first ones of the present order."""
        self.sampler.epoch = self.sampler.resumed = state["epoch"]
        self.start, then = state["batches"], state["order"]
        changed = [f"{name} {then[name]}, not {value}" for name, value in self.order.items() if then[name] != value]
        if not changed:
            return
        if self.start * then["data.batch_size"] < then["items"] // then["processes"]:
            raise UserError(
                f"the checkpoint lies within an epoch, after {self.start} batches, and the others of that epoch are "
                f"known only with the settings that it had: {', '.join(changed)}. Go on with those to the end of the "
                "epoch, or from a checkpoint of an epoch's end"
            )
        self.start = len(self)  # nothing of that epoch is left

    @property
    def order(self) -> dict[str, Any]:
        """All that says which items are in which batch, but for the epoch."""
        return {
            "data.batch_size": self.batch_size,
            "data.balanced": self.sampler.categories is not None,
            "processes": self.sampler.num_replicas,
            "seed_everything": self.sampler.seed,
            "items": len(self.dataset),
        }


class ThreadLoader(DataLoader[Batch]):
    """Reads the next batch by threads while one is looked at, for networks on a CPU.

    A worker would be forked from a process whose networks have run: Linux copies each page of their memory that they
    then write, a quarter of the time of a test. Not for training: augmentations keep their random state.
    """

    dataset: Items  # type: ignore[assignment]

    def __iter__(self) -> Any:
        coming: list[Future[Batch]] = []
        # Tiles come in order, and one thread reads each image once.
        with Pool(1 if self.dataset.tiles else min(4, cores())) as pool:
            for items in chain(self.batch_sampler or [], [[]]):
                ready, coming = coming, [pool.submit(self.dataset.__getitem__, item) for item in items]
                if ready:
                    yield self.collate_fn([item.result() for item in ready])


def collate(items: list[Batch]) -> Batch:
    """B batches of one -> one batch of B.

    Smaller images are filled up at the bottom and right by zeros, which no network sees (`Batch.uniform`).
    """
    pixels = [item.pixels for item in items if item.pixels is not None]
    canvases = [(image.shape[2], image.shape[3]) for image in pixels]
    alike = len(set(canvases)) < 2
    if not alike:
        height, width = (max(sides) for sides in zip(*canvases, strict=True))
        pixels = [pad(image, (0, width - w, 0, height - h)) for image, (h, w) in zip(pixels, canvases, strict=True)]
    features = [item.features for item in items if item.features is not None]
    unrelated = [item.unrelated for item in items if item.unrelated is not None]
    return Batch(
        pixels=join(pixels) if pixels else None,
        index=torch.cat([item.index for item in items]),
        samples=[item.samples[0] for item in items],
        sizes=[item.sizes[0] for item in items],
        boxes=[item.boxes[0] for item in items],
        canvases=None if alike else canvases,
        masks=[item.masks[0] if item.masks else None for item in items] if any(item.masks for item in items) else None,
        features=[join(list(level)) for level in zip(*features, strict=True)] if features else None,
        unrelated=join(unrelated) if unrelated else None,
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


def check_memory(count: int, size: Size, bytes_each: int = 12) -> None:
    """Raises UserError if the pixels alone of `count` images at once do not fit the machine's memory.

    As 3 float32 numbers, which is what a network takes. What the teacher makes of them it looks at itself; what
    students and their gradients take on top is not counted.
    """
    needed, have = count * size[0] * size[1] * bytes_each, memory()
    if have is not None and needed > have:
        images = "1 image" if count == 1 else f"{count} images"
        raise UserError(
            f"{images} of {size[0]}x{size[1]} at once take {needed / 2**30:.1f} GiB for their pixels alone, and this "
            f"machine has {have / 2**30:.1f} GiB: lower model.view.image_size, data.batch_size or "
            "data.eval_batch_size, or set model.view.tile"
        )


def one_thread(worker: int) -> None:
    """As torch does in its workers, for OpenCV, which albumentations runs on."""
    import cv2

    cv2.setNumThreads(0)
