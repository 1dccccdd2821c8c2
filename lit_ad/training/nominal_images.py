"""Nominal images of a run with their features, for a method's statistics."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lit_ad.batch import Batch
from lit_ad.errors import UserError
from lit_ad.methods.base import Method
from lit_ad.methods.network import as_images


def nominal(trainer: L.Trainer, method: Method) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Yield this process's share of the nominal training images, in batches: images (B, 3, H, W) in [0, 1], and their
    features.

    Each image comes once, without augmentation. trainer.limit_train_batches limits them.
    """
    limited = isinstance(trainer.limit_train_batches, int) or trainer.limit_train_batches < 1
    loader = data_of(trainer, method).nominal_dataloader()
    return _describe_batches(trainer, method, loader, int(trainer.num_training_batches) if limited else None)


def held_out(
    trainer: L.Trainer, method: Method, numbers: Sequence[int] | None = None
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Yield this process's share of the held-out images, as `nominal` does. `numbers`: their indices; None: all."""
    data = data_of(trainer, method)
    return _describe_batches(trainer, method, data.held_out_dataloader(numbers), None)


def data_of(trainer: L.Trainer, method: Method) -> Any:
    """Return the DataModule of a trainer. Raises UserError if the trainer was given loaders instead."""
    data = getattr(trainer, "datamodule", None)
    if data is None:
        raise UserError(f"{type(method).__name__} needs nominal images for its statistics: fit it with a DataModule")
    return data


def _describe_batches(
    trainer: L.Trainer, method: Method, loader: DataLoader[Batch], count: int | None
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Yield the first `count` batches of a loader as images (B, 3, H, W) in [0, 1], and their features."""
    for batch in (part for given in islice(loader, count) for part in given.same_size_parts()):
        moved = trainer.strategy.batch_to_device(batch)
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            images = None if moved.pixels is None else as_images(moved.pixels)
            if moved.features is not None:
                yield images, [level.to(method.dtype) for level in moved.features]  # type: ignore[misc]
            else:
                assert images is not None
                yield images, method.describe(images)
