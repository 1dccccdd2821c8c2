"""Run the frozen part once, and keep its features on disk for all epochs and later runs."""

import math
import os
import shutil
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import Subset

from lit_ad.batch import Batch
from lit_ad.counts import format_count
from lit_ad.errors import UserError
from lit_ad.features.dataset import FeatureDataset, Features, SplitFeatures
from lit_ad.features.layout import add_run, bytes_used
from lit_ad.features.store import FeatureStore, load_or_compute, store_path
from lit_ad.files import cache_directory, format_bytes, resolve_path
from lit_ad.machine import available_memory
from lit_ad.methods.base import Method
from lit_ad.methods.network import as_images
from lit_ad.training.cache_parts import Part, list_parts
from lit_ad.training.nominal_images import data_of
from lit_ad.training.progress import is_later_fold


class FeatureCache(L.Callback):
    """Computes the teacher's features of training and validation images once, and keeps them on disk for all epochs and
    all later runs with the same teacher, view and files. Tiles of validation images are not cached.

    Args:
        enabled: True caches. "auto" caches if training uses every image at least twice and unchanged, if the features
            need at most half of the machine's memory (features from the disk may be slower than the teacher), and if
            all caches together need at most half of the disk space that is free without them. A line prints the choice
            and its reason.
        directory: Folder of the stores. None: $XDG_CACHE_HOME/lit_ad/features, by default ~/.cache/lit_ad/features.
        dtype: Precision of the stored numbers. float16 is 8 times finer than bfloat16 at the same size, and its range
            is enough for most teachers. A larger number is an error; with "auto", nothing is cached, and a line says
            so.
    """

    def __init__(
        self,
        enabled: bool | Literal["auto"] = "auto",
        directory: Path | None = None,
        dtype: Literal["float16", "bfloat16", "float32"] = "float16",
    ) -> None:
        self.enabled, self.dtype = enabled, dtype
        self.directory = resolve_path(directory) if directory else None

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Raises UserError if `enabled` is true although the training images change in every epoch."""
        key = data_of(trainer, pl_module).random_setting if self.enabled is True and stage == "fit" else None
        if key is not None:
            raise UserError(
                f"cache.enabled computes the features of each training image once, but {key} changes the image in "
                "every epoch: remove one of them"
            )

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Give the features to the DataModule. It makes all loaders of the training after this hook."""
        if not self.enabled or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        auto = self.enabled == "auto"
        stores: dict[str, Features] = {}
        reason = _reason_not_to_cache(trainer, pl_module) if auto else None
        if reason is None:
            parts = list(list_parts(trainer, pl_module))
            existing, missing = self._measure_sizes(trainer, pl_module, parts)
            reason = _reason_too_large(missing, self._home) if auto and missing else None
            reason = trainer.strategy.broadcast(reason)  # the first process decides for all
        if reason is None:
            images = format_count(sum(part.count for part in parts), "image")
            if missing or not is_later_fold(trainer):
                rank_zero_info(
                    f"Features of {images} are cached in {self._home}, {format_bytes(existing + missing)} "
                    f"({self.dtype}); `lit-ad cache` lists and clears them"
                )
            try:
                for part in parts:
                    store = self._open_store(trainer, pl_module, part)
                    for split, rows in part.rows.items():
                        stores[split] = store if rows is None else Subset(store, rows)  # type: ignore[arg-type]
            except UserError as error:
                if not auto:
                    raise
                reason = str(error)
        if reason is not None:
            if not is_later_fold(trainer):
                rank_zero_info(f"Features are not cached: {reason}")
            return
        data_of(trainer, pl_module).features = SplitFeatures(stores, pl_module.needs_pixels)

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Raises RuntimeError if a loader was made before the features existed, and so does not use them."""
        data: Any = getattr(trainer, "datamodule", None)
        loaders: dict[str, Any] = {"train": trainer.train_dataloader, "val": trainer.val_dataloaders}
        for split in () if data is None else data.features.splits:
            if loaders[split] is not None and not isinstance(loaders[split].dataset, FeatureDataset):
                raise RuntimeError(
                    f"the {split} loader was made before its features were cached: have on_fit_start set "
                    "trainer.fit_loop._combined_loader to None, as Method does, or set cache.enabled to false"
                )

    @property
    def _home(self) -> Path:
        return self.directory or cache_directory() / "features"

    def _measure_sizes(self, trainer: L.Trainer, method: Method, parts: list[Part]) -> tuple[int, int]:
        """Return the bytes of the stores that exist, and of those that are missing. Raises UserError if the dtype is
        unknown."""
        folders = [store_path(self._home, part.about, part.count, self.dtype) for part in parts]
        existing = sum(FeatureStore(folder).nbytes for folder in folders if folder.is_dir())
        missing = sum(part.count for part, folder in zip(parts, folders, strict=True) if not folder.is_dir())
        if not missing:
            return existing, 0
        levels = next(
            compute_features(trainer, method, [parts[0].loader.dataset[0]])
        )  # a store needs inputs of one size
        return existing, missing * getattr(torch, self.dtype).itemsize * sum(level.numel() for level in levels)

    def _open_store(self, trainer: L.Trainer, method: Method, part: Part) -> FeatureStore:
        """Return the store of a part; compute it if it does not exist."""
        compute = partial(compute_features, trainer, method, part.loader)
        title = f"Teacher features, {' and '.join(part.rows)}"
        store = load_or_compute(self._home, part.about, part.count, self.dtype, compute, title)
        if trainer.local_rank == 0:
            add_run(store.folder, Path(trainer.default_root_dir))
        return store


def compute_features(trainer: L.Trainer, method: Method, loader: Iterable[Batch]) -> Iterator[list[Tensor]]:
    """Yield the frozen part's features of each batch, (b, C, h, w) of each tap."""
    for batch in (part for given in loader for part in given.same_size_parts()):
        moved = trainer.strategy.batch_to_device(batch)
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            yield method.describe(as_images(moved.pixels))


def _reason_not_to_cache(trainer: L.Trainer, method: Method) -> str | None:
    """Return why this training cannot use cached features more than once; None if it can."""
    data = getattr(trainer, "datamodule", None)
    if data is None:
        return "the Trainer was given loaders instead of a DataModule"
    if not method.teachers():
        return f"{type(method).__name__} has no teacher"
    if data.random_setting is not None:
        return f"{data.random_setting} changes the images in every epoch"
    if data.view.size is None and data.view.tile is None:
        return "each image has its own size (model.view.image_size and model.view.tile are null)"
    if _count_uses_per_image(trainer, data) < 2:
        return "training uses each image less than twice"
    return None


def _count_uses_per_image(trainer: L.Trainer, data: Any) -> float:
    """Return how often training uses an image, on average. With decision.folds, each of K folds' images are used by the
    K - 1 trainings of the other folds, and by the last training."""
    images = len(data.images("train"))
    images_per_step = data.batch_size * trainer.world_size
    per_epoch = math.ceil(images / images_per_step)
    limit = trainer.limit_train_batches
    batches = min(per_epoch, limit) if isinstance(limit, int) else int(per_epoch * limit)
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
    if trainer.max_steps != -1:
        epochs = min(epochs, trainer.max_steps * trainer.accumulate_grad_batches / max(batches, 1))
    folds = data.split.folds
    trainings = 1 if folds is None else len(data.splits.train) if folds == "leave-one-out" else folds
    return float(trainings * epochs * min(1.0, batches * images_per_step / images))


def _reason_too_large(size: int, directory: Path) -> str | None:
    """Return why a cache of `size` bytes should not be written to a directory; None if it may be."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(directory).free
    except OSError as error:
        return f"cannot write to {directory}: {error.strerror}"
    if not os.access(directory, os.W_OK):
        return f"cannot write to {directory}"
    total_memory, earlier = available_memory(), bytes_used(directory)
    if total_memory is not None and size > total_memory / 2:
        return (
            f"the cache needs {format_bytes(size)}, more than half of this machine's memory; "
            "give --cache.enabled true to write the cache anyway"
        )
    if earlier + size > (earlier + free) / 2:
        with_earlier = f"; with {format_bytes(earlier)} of existing caches that is" if earlier else ","
        free_space = "free space with `lit-ad cache clear`, or " if earlier else ""
        return (
            f"the cache needs {format_bytes(size)}{with_earlier} more than half of the free disk, "
            f"{format_bytes(earlier + free)} in {directory}: {free_space}"
            "give --cache.enabled true to write the cache anyway"
        )
    return None
