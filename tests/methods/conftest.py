"""These fixtures make batches of pixels, normalise images for a teacher, and train every method for one epoch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_ad.batch import Batch, Sample
from lit_ad.data import AnomalyDataModule, Loading, MVTec, Perlin
from lit_ad.image.view import Box, View
from lit_ad.methods.base import Method
from lit_ad.training import Calibration
from tests.methods.training import METHODS, made, trainer_in


def batch_of_pixels(pixels: Tensor, boxes: list[Box] | None = None, features: list[Tensor] | None = None) -> Batch:
    """Make a batch of nominal images (B, 3, H, W) in uint8, as the data module gives them. `boxes` says where the
    content is; without boxes there is no padding."""
    n, _, height, width = pixels.shape
    return Batch(
        pixels=pixels,
        index=torch.arange(n),
        samples=[Sample(Path(f"{i}.png"), 0) for i in range(n)],
        sizes=[(height, width)] * n,
        boxes=boxes or [(0, 0, height, width)] * n,
        features=features,
    )


@pytest.fixture(scope="session")
def batch_of() -> Callable[..., Batch]:
    return batch_of_pixels


@pytest.fixture(scope="session")
def imagenet() -> Callable[[Tensor], Tensor]:
    """Normalise images in [0, 1] for the small teachers, by hand: (B, 3, H, W) -> the same shape."""
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return lambda images: (images - mean) / deviation


@pytest.fixture(scope="session")
def data(images: Path) -> AnomalyDataModule:
    return AnomalyDataModule(MVTec(images), View(64), batch_size=4, loading=Loading(eval_batch_size=2, num_workers=0))


@pytest.fixture(scope="session")
def trained(
    small_models: dict[str, dict[str, Any]], images: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Method, Path]]:
    """Train each method for one epoch, and return it in eval mode with its checkpoint."""
    found = {}
    for name in METHODS:
        folder, model = tmp_path_factory.mktemp("run"), made(name, small_models)
        trainer = trainer_in(folder, max_epochs=1, callbacks=[Calibration(0.2)])
        loading = Loading(num_workers=0)
        trainer.fit(model, AnomalyDataModule(MVTec(images), model.view, 4, corrupt=Perlin(), loading=loading))
        trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
        found[name] = model.eval(), folder / "checkpoints" / "last.ckpt"
    return found
