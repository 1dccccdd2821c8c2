"""Batches of pixels, and what a teacher makes of them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lit_ad.batch import Batch, Sample
from lit_ad.image.view import Box


def batch_of_pixels(pixels: Tensor, boxes: list[Box] | None = None, features: list[Tensor] | None = None) -> Batch:
    """Nominal images (B, 3, H, W) uint8 as the data module gives them; no padding, unless `boxes` says where."""
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
    """Images in [0, 1] as the small teachers were trained on them, by hand: (B, 3, H, W) -> the same shape."""
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return lambda images: (images - mean) / deviation
