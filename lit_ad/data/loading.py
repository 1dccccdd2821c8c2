"""Options for loading images, and the loaders that they configure."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
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
from lit_ad.data.memory import is_worth_caching
from lit_ad.data.sampling import Share, Shuffle
from lit_ad.data.splits import Splits
from lit_ad.errors import UserError
from lit_ad.features.dataset import Items
from lit_ad.image.view import View
from lit_ad.machine import cores
from lit_ad.threads import Pool

# True if the calling command (such as `lit-ad grow`) has changed the training images. A training that resumes within an
# epoch then leaves out the rest of that epoch, and goes on with the next one.
NEW_IMAGES: ContextVar[bool] = ContextVar("NEW_IMAGES", default=False)


@dataclass(frozen=True)
class Loading:
    """Options for loading images.

    Args:
        eval_batch_size: Images in a batch of validation, test and predict. None: data.batch_size, or 1 with tiles.
        num_workers: Number of processes that load images. None: 0 if images are cached and not augmented, or if this
            process has one core; otherwise the number of cores of this process minus 1, at most 4. If networks run on
            the CPU, validation, test and predict use threads instead.
        cache_images: Keep decoded and resized training and validation images in RAM (3 bytes for each pixel, once in
            each training process). None: if the view has a size or tiles, and all images need at most 1 GiB.
        balanced: Take the same number of images from each category in an epoch: images of small categories repeat, and
            each epoch takes another part of large categories. The number of images in an epoch stays the same.
        drop_last: Leave out the last batch of an epoch if it is smaller than the others, as Dinomaly's authors do.
        train_tiles: Train on "all" tiles of all images, or on as many "random" crops, which differ in each epoch.
        inspect: Before training, read all files, print a summary and warnings, and refuse test images that cannot be
            read.
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
        """Return the options that decide which images an epoch has, by the names of their keys."""
        return {f"data.loading.{name}": getattr(self, name) for name in ("balanced", "drop_last", "train_tiles")}

    def keeps_in_memory(self, splits: Splits, view: View, for_once: bool) -> bool:
        """Return whether training and validation images stay in memory.

        Args:
            splits: The images of the run.
            view: How images become network inputs.
            for_once: Whether the run reads each image only once, so that the default is not to keep them.
        """
        if self.cache_images is not None:
            return self.cache_images
        return not for_once and is_worth_caching([*splits.train, *splits.val], view)


@dataclass(frozen=True)
class Place:
    """The place of this process in a run."""

    processes: int = 1  # number of processes of the run
    rank: int = 0  # number of this process
    devices: int = 1  # devices of this machine, whose processes share its cores
    on_cpu: bool = False  # whether networks run on the CPU; False if that is unknown yet


def place_in(trainer: L.Trainer | None) -> Place:
    """Return the place of this process among those of a trainer. Without a trainer, there is one process."""
    if trainer is None:
        return Place()
    on_cpu = trainer.strategy.root_device.type == "cpu"
    return Place(trainer.world_size, trainer.global_rank, max(1, trainer.num_devices), on_cpu)


def check_full_batch(images: int, batch_size: int) -> None:
    """Raise UserError if there is no full batch, so that data.loading.drop_last leaves nothing."""
    if images < batch_size:
        raise UserError(
            f"data.loading.drop_last leaves nothing to train on: of {format_count(images, 'image')} there is no batch "
            f"of {batch_size}; lower data.batch_size, or set data.loading.drop_last to false"
        )


def run_seed() -> int:
    """Return the seed of seed_everything, which Lightning keeps in an environment variable."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


@dataclass(frozen=True)
class Loaders:
    """Makes the loaders of a run.

    Args:
        loading: The options.
        place: The place of this process in the run.
        seed: Seed of the order in training.
    """

    loading: Loading
    place: Place
    seed: int

    def train(self, images: AnomalyDataset, items: Items, batch_size: int) -> DataLoader[Batch]:
        """Return a loader of this process's part of each epoch, in random order.

        Args:
            images: The training images. The loader sets their epoch, and reads the category of each item.
            items: The items to load: the images, or the images with features.
            batch_size: Items in a batch, for each device.

        Raises:
            UserError: There is no full batch, and `drop_last` leaves a smaller one out.
        """
        drop_last = self.loading.drop_last
        sampler = Shuffle(images, self.place.processes, self.place.rank, self.seed, self.loading.balanced)
        if drop_last:
            check_full_batch(len(sampler), batch_size)
        options = {"sampler": sampler, "collate_fn": collate_equal, "drop_last": drop_last}
        return self._make(TrainLoader, items, batch_size, self._count_workers(items), **options)

    def share(self, items: Items, batch_size: int, numbers: Sequence[int] | None = None) -> DataLoader[Batch]:
        """Return a loader of this process's share of the items, in order. `numbers`: their indices; None: all."""
        numbers = range(len(items)) if numbers is None else numbers
        return self.plain(items, batch_size, Share(numbers, self.place.processes, self.place.rank))

    def plain(self, items: Items, batch_size: int, sampler: Share | None = None) -> DataLoader[Batch]:
        """Return a loader of all items in order, or of a sampler's items. Threads load if networks run on the CPU and
        data.loading.num_workers is not given."""
        workers = self._count_workers(items)
        if workers and self.loading.num_workers is None and self.place.on_cpu:
            return self._make(ThreadLoader, items, batch_size, 0, sampler=sampler, collate_fn=collate)
        return self._make(DataLoader, items, batch_size, workers, sampler=sampler, collate_fn=collate)

    def _count_workers(self, items: Items) -> int:
        """Return the number of processes that load. By default, 0 if items are in memory or there is only one core."""
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
            batch_size=batch_size,  # a keyword, so that Lightning can make the loader again for predict
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_use_one_thread,
            # Without it, each epoch draws from torch's global generator, from which the model draws too.
            generator=torch.Generator().manual_seed(self.seed),
            **options,
        )


class TrainLoader(DataLoader[Batch]):
    """A loader that resumes within an epoch. Lightning keeps its state in the checkpoint.

    The order depends on seed and epoch only, so the state is the number of batches. torchdata's StatefulDataLoader
    resumes, too, but copies torch's loader and its private parts.
    """

    dataset: Items  # type: ignore[assignment]
    sampler: Shuffle
    given = start = 0  # number of batches of this epoch so far; number of batches to skip in the next epoch

    def __iter__(self) -> Any:
        self.given, self.start = self.start, 0
        self.sampler.start = self.given * (self.batch_size or 1)
        return self._count_batches()

    def _count_batches(self) -> Iterator[Batch]:
        """Yield the batches and count them. A generator starts workers at its first batch only: Lightning also makes
        an iterator to count steps, and takes no batch from it."""
        for batch in super().__iter__():
            self.given += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the state within the epoch. It is empty if trainer.overfit_batches has replaced the sampler."""
        if not isinstance(self.sampler, Shuffle):
            return {}
        return {"epoch": int(self.sampler.shared_epoch), "batches": self.given, "order": self.order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume after the batches of the checkpoint, or with the next epoch if `NEW_IMAGES` is true. Raises UserError
        if the present settings give another order."""
        if not state or not isinstance(self.sampler, Shuffle):
            return
        self.sampler.epoch = self.sampler.resumed = state["epoch"]
        if NEW_IMAGES.get():
            self.start = len(self)
            return
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
                f"rest of that epoch needs the same settings: {', '.join(changed)}. Restore them until the epoch ends, "
                "or resume from a checkpoint of an epoch's end"
            )
        self.start = len(self)  # that epoch is complete

    @property
    def order(self) -> dict[str, Any]:
        """All values beside the epoch that decide which items are in which batch."""
        return {
            "data.batch_size": self.batch_size,
            "data.loading.balanced": self.sampler.categories is not None,
            "processes": self.sampler.num_replicas,
            "seed_everything": self.sampler.seed,
            "items": len(self.dataset),
        }


class ThreadLoader(DataLoader[Batch]):
    """A loader whose threads read the next batch while the networks run on the CPU.

    Threads instead of worker processes: a forked worker copies the networks' memory page by page, which takes 25 % of
    the time of a test on a CPU. It is not for training, because augmentations have a random state that threads must not
    share.
    """

    dataset: Items  # type: ignore[assignment]

    def __iter__(self) -> Any:
        next_batch: list[Future[Batch]] = []
        # With tiles, one thread reads them in order, so that each image is read once.
        with Pool(1 if self.dataset.tiles else min(4, cores())) as pool:
            for items in chain(self.batch_sampler or [], [[]]):
                ready, next_batch = next_batch, [pool.submit(self.dataset.__getitem__, item) for item in items]
                if ready:
                    yield self.collate_fn([item.result() for item in ready])


def _use_one_thread(worker: int) -> None:
    """Let OpenCV, which albumentations uses, run one thread in a worker, as torch does for itself."""
    import cv2

    cv2.setNumThreads(0)
