"""The frozen part run once, and its features kept on disk for all epochs and later runs."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor

from lit_ad.batch import Batch
from lit_ad.callbacks.calibration import data_of
from lit_ad.errors import UserError
from lit_ad.files import cache_directory
from lit_ad.methods.base import Method, as_images, qualified_name
from lit_ad.teachers.store import load_or_compute


class FeatureCache(L.Callback):
    """Compute the teacher's features of training and validation images once, and keep them on disk for all epochs and
    all later runs with the same teacher, view and files. Tiles of validation images are not cached.

    Args:
        enabled: Do so. It needs training images that are the same in every epoch.
        directory: Where. None: $XDG_CACHE_HOME/lit_ad/features, which is ~/.cache/lit_ad/features if that is not set.
        dtype: In which precision. float16 is 8 times finer than bfloat16 at the same size, and its range is enough for
            what teachers give (an error says if it is not).
    """

    def __init__(
        self,
        enabled: bool = False,
        directory: Path | None = None,
        dtype: Literal["float16", "bfloat16", "float32"] = "float16",
    ) -> None:
        self.enabled, self.directory, self.dtype = enabled, directory, dtype

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        random = data_of(trainer, pl_module).random if self.enabled and stage == "fit" else ""
        if random:
            raise UserError(
                f"cache.enabled computes the features of each training image once, but {random} shows another one in "
                "every epoch: give up one of them"
            )

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not self.enabled or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        data = data_of(trainer, pl_module)
        overridden = type(pl_module).describe is not Method.describe
        described_by = qualified_name(type(pl_module)) if overridden else "teacher"
        made_by = {
            "describe": described_by,
            "teachers": [teacher.identity for teacher in pl_module.teachers().values()],
            "precision": str(trainer.precision),
        }
        for split, loader, about in data.cacheable(pl_module.needs_pixels):
            if split == "val" and not trainer.enable_validation:
                continue
            store = load_or_compute(
                self.directory or cache_directory() / "features",
                {**made_by, **about},
                len(loader.dataset),
                self.dtype,
                partial(features, trainer, pl_module, loader),
                f"Teacher features, {split}",
            )
            data.serve_features(split, store, pl_module.needs_pixels)


def features(trainer: L.Trainer, method: Method, loader: Iterable[Batch]) -> Iterator[list[Tensor]]:
    """Those of every batch of a loader."""
    for batch in (one for given in loader for one in given.uniform()):
        moved = trainer.strategy.batch_to_device(batch)
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            yield method.describe(as_images(moved.pixels))
