"""How images are loaded: the options, and the loaders that are made by them."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import lightning as L
import torch
from lightning.fabric.utilities.data import suggested_max_num_workers
from torch.utils.data import DataLoader

from lit_ad.batch import Batch
from lit_ad.counts import format_count
from lit_ad.data.collation import collate, collate_equal
from lit_ad.data.dataset import AnomalyDataset
from lit_ad.data.sampling import Share, Shuffle
from lit_ad.errors import UserError
from lit_ad.features.dataset import Items
from lit_ad.machine import cores
from lit_ad.threads import Pool


@dataclass(frozen=True)
class Loading:
    """How images are loaded, and in which order.

    Args:
        eval_batch_size: Images in validation, test and predict. None: data.batch_size, or with tiles 1.
        num_workers: Processes that load. None: none if images are cached and not augmented, else one less than there
            are cores for this process, at most 4; where a CPU validates, tests or predicts, threads instead.
        cache_images: Keep decoded and resized training and validation images in RAM (3 bytes a pixel, once in each
            training process). None: if the view has a size or tiles, and all take less than 1 GiB.
        balanced: In an epoch, as many images of each category: of small ones repeatedly, of large ones a part, which is
            another in each epoch. An epoch is as long as without.
        drop_last: Leave out the last batch of an epoch, where it is smaller than the others, as Dinomaly's authors do.
        train_tiles: Train on "all" tiles of all images, or on as many "random" crops, others in each epoch.
        inspect: Before training, look at all files: tell what there is, warn of what looks wrong, and refuse test
            images that cannot be read.
    """

    eval_batch_size: int | None = None
    num_workers: int | None = None
    cache_images: bool | None = None
    balanced: bool = False
    drop_last: bool = False
    train_tiles: Literal["all", "random"] = "all"
    inspect: bool = True

    def __post_init__(self) -> None:
        if self.eval_batch_size is not None and self.eval_batch_size < 1:
            raise UserError(
                f"data.loading.eval_batch_size is {self.eval_batch_size}, but it must be 1 or more, or null"
            )
        if self.num_workers is not None and self.num_workers < 0:
            raise UserError(f"data.loading.num_workers is {self.num_workers}; it must be 0 or more, or null")

    def choices(self) -> dict[str, Any]:
        """Return what decides which images an epoch has, by the names of the keys."""
        return {f"data.loading.{name}": getattr(self, name) for name in ("balanced", "drop_last", "train_tiles")}


@dataclass(frozen=True)
class Place:
    """Where in a run this process is."""

    processes: int = 1  # that work together
    rank: int = 0  # which of them this is
    devices: int = 1  # of this machine: their processes share its cores
    on_cpu: bool = False  # whether networks run on the CPU; False before it is known


def place_in(trainer: L.Trainer | None) -> Place:
    """Return where this process is, of those that a trainer has; without a trainer, it is alone."""
    if trainer is None:
        return Place()
    on_cpu = trainer.strategy.root_device.type == "cpu"
    return Place(trainer.world_size, trainer.global_rank, max(1, trainer.num_devices), on_cpu)


def run_seed() -> int:
    """Return seed_everything's, as Lightning's own samplers read it."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


@dataclass(frozen=True)
class Loaders:
    """Makes the loaders of a run.

    Args:
        loading: The options.
        place: Where in the run this process is.
        seed: Of the order of training.
    """

    loading: Loading
    place: Place
    seed: int

    def train(self, images: AnomalyDataset, items: Items, batch_size: int) -> DataLoader[Batch]:
        """Return a loader of this process's part of each epoch, in random order.

        Args:
            images: The training images. They are told the epoch, and know the category of each item.
            items: What is loaded: the images, or the images with features.
            batch_size: Items of a batch, on each device.

        Raises:
            UserError: There is no whole batch, and a smaller one is left out.
        """
        drop_last = self.loading.drop_last
        sampler = Shuffle(images, self.place.processes, self.place.rank, self.seed, self.loading.balanced)
        if drop_last and len(sampler) < batch_size:
            raise UserError(
                f"data.loading.drop_last leaves nothing to train on: of {format_count(len(sampler), 'image')} there is "
                f"no batch of {batch_size}; lower data.batch_size, or set data.loading.drop_last to false"
            )
        options = {"sampler": sampler, "collate_fn": collate_equal, "drop_last": drop_last}
        return self._make(TrainLoader, items, batch_size, self._workers(items), **options)

    def share(self, items: Items, batch_size: int, numbers: Sequence[int] | None = None) -> DataLoader[Batch]:
        """Return a loader of this process's share of the items, or of those with these numbers, in order."""
        numbers = range(len(items)) if numbers is None else numbers
        return self.plain(items, batch_size, Share(numbers, self.place.processes, self.place.rank))

    def plain(self, items: Items, batch_size: int, sampler: Share | None = None) -> DataLoader[Batch]:
        """Return a loader of all items in order, or of a sampler's. Threads load where networks run on the CPU and
        data.loading.num_workers does not say otherwise."""
        workers = self._workers(items)
        if workers and self.loading.num_workers is None and self.place.on_cpu:
            return self._make(ThreadLoader, items, batch_size, 0, sampler=sampler, collate_fn=collate)
        return self._make(DataLoader, items, batch_size, workers, sampler=sampler, collate_fn=collate)

    def _workers(self, items: Items) -> int:
        """Return how many processes load: unasked, none where items are in memory or there is no core to spare."""
        if self.loading.num_workers is not None:
            return self.loading.num_workers
        if items.is_in_memory or cores() // self.place.devices < 2:
            return 0
        return min(4, suggested_max_num_workers(self.place.devices))

    def _make(
        self, kind: type[DataLoader[Batch]], items: Items, batch_size: int, workers: int, **options: Any
    ) -> DataLoader[Batch]:
        return kind(
            items,  # type: ignore[arg-type]
            batch_size=batch_size,  # by name, or Lightning cannot remake the loader for predict
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=one_thread,
            generator=torch.Generator().manual_seed(self.seed),  # or each epoch draws from the model's randomness
            **options,
        )


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
        """Return where this epoch stands; nothing where trainer.overfit_batches put a sampler of one order in place."""
        if not isinstance(self.sampler, Shuffle):
            return {}
        return {"epoch": int(self.sampler.shared_epoch), "batches": self.given, "order": self.order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises UserError if batches that were given before are not the first ones of the present order."""
        if not state or not isinstance(self.sampler, Shuffle):
            return
        self.sampler.epoch = self.sampler.resumed = state["epoch"]
        self.start, then = state["batches"], state["order"]
        changed = [
            f"{name} {then[name]}, not {value}"
            for name, value in self.order.items()
            if name in then and then[name] != value
        ]
        if not changed:
            return
        if self.start * then["data.batch_size"] < then["items"] // then["processes"]:
            raise UserError(
                f"the checkpoint lies within an epoch, after {format_count(self.start, 'batch', 'batches')}, and the "
                f"others of that epoch are known only with the settings that it had: {', '.join(changed)}. Go on "
                "with those to the end of the epoch, or from a checkpoint of an epoch's end"
            )
        self.start = len(self)  # nothing of that epoch is left

    @property
    def order(self) -> dict[str, Any]:
        """All that says which items are in which batch, but for the epoch."""
        return {
            "data.batch_size": self.batch_size,
            "data.loading.balanced": self.sampler.categories is not None,
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


def one_thread(worker: int) -> None:
    """As torch does in its workers, for OpenCV, which albumentations runs on."""
    import cv2

    cv2.setNumThreads(0)
