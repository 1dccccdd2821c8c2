"""The frozen part run once, and its features kept on disk for all epochs and later runs."""

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

from lit_ad.batch import Batch
from lit_ad.errors import UserError
from lit_ad.features.dataset import FeatureDataset, SplitFeatures
from lit_ad.features.layout import bytes_used
from lit_ad.features.store import FeatureStore, load_or_compute, store_path
from lit_ad.files import cache_directory, format_bytes, resolve_path
from lit_ad.machine import memory
from lit_ad.methods.base import Method
from lit_ad.methods.detector_file import qualified_name
from lit_ad.methods.network import as_images
from lit_ad.training.calibration import data_of


class FeatureCache(L.Callback):
    """Compute the teacher's features of training and validation images once, and keep them on disk for all epochs and
    all later runs with the same teacher, view and files. Tiles of validation images are not cached.

    Args:
        enabled: Do so. "auto": where training looks at every image twice or more, they are the same each time, and the
            features take no more than half of the machine's memory, from which later epochs then read them (from a disk
            they could come slower than from the teacher), and with all that is cached in this directory no more than
            half of the disk that it leaves free. A line says what was chosen, and why.
        directory: Where. None: $XDG_CACHE_HOME/lit_ad/features, which is ~/.cache/lit_ad/features if that is not set.
        dtype: In which precision. float16 is 8 times finer than bfloat16 at the same size, and its range is enough for
            what teachers give (if it is not, an error or, with "auto", a line says so).
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
        random = data_of(trainer, pl_module).random if self.enabled is True and stage == "fit" else ""
        if random:
            raise UserError(
                f"cache.enabled computes the features of each training image once, but {random} shows another one in "
                "every epoch: give up one of them"
            )

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not self.enabled or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        directory, auto = self.directory or cache_directory() / "features", self.enabled == "auto"
        reason = unfit(trainer, pl_module) if auto else ""
        if not reason:
            parts = list(self._parts(trainer, pl_module))
            reason = self._announce(trainer, pl_module, parts, directory, auto)
        if not reason:
            try:
                stores = [self._store(trainer, pl_module, directory, *part) for part in parts]
            except UserError as error:
                if not auto:
                    raise
                reason = str(error)
        if reason:
            rank_zero_info(f"Features are not cached: {reason}")
            return
        splits = {split: store for (split, *_), store in zip(parts, stores, strict=True)}
        data_of(trainer, pl_module).features = SplitFeatures(splits, pl_module.needs_pixels)

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Raises RuntimeError if a loader was made before there were features, and so would go without them."""
        data: Any = getattr(trainer, "datamodule", None)
        loaders: dict[str, Any] = {"train": trainer.train_dataloader, "val": trainer.val_dataloaders}
        for split in () if data is None else data.features.splits:
            if loaders[split] is not None and not isinstance(loaders[split].dataset, FeatureDataset):
                raise RuntimeError(
                    f"the {split} loader was made before its features were cached: have on_fit_start set "
                    "trainer.fit_loop._combined_loader to None, as Method does, or set cache.enabled to false"
                )

    def _parts(self, trainer: L.Trainer, method: Method) -> Iterator[tuple[str, Any, dict[str, Any]]]:
        """Each split that is to be cached: its name, its loader, and all that its features depend on."""
        overridden = type(method).describe is not Method.describe
        made_by = {
            "describe": qualified_name(type(method)) if overridden else "teacher",
            "teachers": [teacher.identity for teacher in method.teachers().values()],
            "precision": str(trainer.precision),
        }
        for split, loader, about in data_of(trainer, method).cacheable(method.needs_pixels):
            if split != "val" or trainer.enable_validation:
                yield split, loader, {**made_by, **about}

    def _announce(self, trainer: L.Trainer, method: Method, parts: list[Any], directory: Path, auto: bool) -> str:
        """Say what is cached, where, and how large it is; or, with "auto", why it should not be: the same answer on all
        processes, the first one's. Raises UserError where the dtype is unknown."""
        reason = ""
        if trainer.is_global_zero:
            count = sum(len(loader.dataset) for _, loader, _ in parts)
            folders = [store_path(directory, about, len(loader.dataset), self.dtype) for _, loader, about in parts]
            there = sum(FeatureStore(folder).nbytes for folder in folders if folder.is_dir())
            missing = sum(len(part[1].dataset) for part, at in zip(parts, folders, strict=True) if not at.is_dir())
            size = 0
            if missing:  # all inputs are of one size, or they could not be kept
                one = next(features(trainer, method, [parts[0][1].dataset[0]]))
                size = missing * getattr(torch, self.dtype).itemsize * sum(level.numel() for level in one)
            if auto and missing:
                reason = too_large(size, directory)
            if not reason:
                rank_zero_info(
                    f"Features of {count} images are cached in {directory}, {format_bytes(there + size)} "
                    f"({self.dtype}); `lit-ad cache` lists and clears what is there"
                )
        return trainer.strategy.broadcast(reason)

    def _store(
        self, trainer: L.Trainer, method: Method, directory: Path, split: str, loader: Any, about: dict[str, Any]
    ) -> FeatureStore:
        compute = partial(features, trainer, method, loader)
        return load_or_compute(directory, about, len(loader.dataset), self.dtype, compute, f"Teacher features, {split}")


def features(trainer: L.Trainer, method: Method, loader: Iterable[Batch]) -> Iterator[list[Tensor]]:
    """Those of every batch of a loader."""
    for batch in (one for given in loader for one in given.uniform()):
        moved = trainer.strategy.batch_to_device(batch)
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            yield method.describe(as_images(moved.pixels))


def unfit(trainer: L.Trainer, method: Method) -> str:
    """Why the features of this training would not serve twice, in words, if they would not."""
    data = getattr(trainer, "datamodule", None)
    if data is None:
        return "the Trainer was given loaders, and no DataModule"
    if not method.teachers():
        return f"{type(method).__name__} has no teacher"
    if data.random:
        return f"{data.random} shows another image in every epoch"
    if data.view.size is None and data.view.tile is None:
        return "each image has its own size (model.view.image_size and model.view.tile are null)"
    if looks(trainer, data) < 2:
        return "training looks at an image less than twice"
    return ""


def looks(trainer: L.Trainer, data: Any) -> float:
    """How often training looks at an image, on average."""
    split, loader, _ = next(data.cacheable(needs_pixels=False))
    assert split == "train"
    images = len(loader.dataset)
    together = data.batch_size * trainer.world_size
    whole = math.ceil(images / together)
    limit = trainer.limit_train_batches
    batches = min(whole, limit) if isinstance(limit, int) else int(whole * limit)
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
    if trainer.max_steps != -1:
        epochs = min(epochs, trainer.max_steps * trainer.accumulate_grad_batches / max(batches, 1))
    return epochs * min(1.0, batches * together / images)


def too_large(size: int, directory: Path) -> str:
    """Why `size` bytes should not be written to a directory, in words, if they should not."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(directory).free
    except OSError as error:
        return f"cannot write to {directory}: {error.strerror}"
    if not os.access(directory, os.W_OK):
        return f"cannot write to {directory}"
    have, earlier = memory(), bytes_used(directory)
    if have is not None and size > have / 2:
        return (
            f"the cache needs {format_bytes(size)}, more than half of this machine's memory; "
            "--cache.enabled true makes one"
        )
    if earlier + size > (earlier + free) / 2:
        with_earlier = f"; with {format_bytes(earlier)} of existing caches that is" if earlier else ","
        remedy = "free space with `lit-ad cache clear`, or make one" if earlier else "make one"
        return (
            f"the cache needs {format_bytes(size)}{with_earlier} more than half of the free disk, "
            f"{format_bytes(earlier + free)} in {directory}: {remedy} with --cache.enabled true"
        )
    return ""
