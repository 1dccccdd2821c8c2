"""A detector that is easy to follow, and images whose every number can be checked by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lit_ad.batch import Prediction
from lit_ad.methods.base import Method
from lit_ad.view import View


class Brightness(Method):
    """The map is the image's brightness, a mean over cells of stride x stride pixels."""

    def __init__(self, view: View = View(None), stride: int = 1) -> None:
        super().__init__(view.of_multiple(stride))
        self.stride = stride
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def describe(self, images: Tensor) -> list[Tensor]:
        return [images]

    def compare(self, images: Tensor, features: list[Tensor]) -> Tensor:
        return torch.nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), self.stride)

    def loss(self, disagreement: Tensor) -> Tensor:
        return disagreement.mean() + 0 * self.weight

    def detect(self, disagreement: Tensor) -> Prediction:
        return Prediction(disagreement)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture(scope="session")
def brightness() -> type[Method]:
    return Brightness


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Two categories of grey noise, with bright defects of two types in one and of one type in the other."""
    generator = np.random.default_rng(0)
    for category, kinds in (("bolt", {"good": 6, "scratch": 2, "dent": 3}), ("nut", {"good": 5, "dent": 2})):
        for split, kind, count in [("train", "good", 10), *(("test", kind, count) for kind, count in kinds.items())]:
            for i in range(count):
                pixels = generator.normal(90 if category == "bolt" else 120, 25, (24, 36))
                folder = tmp_path / category / split / kind
                folder.mkdir(parents=True, exist_ok=True)
                if kind != "good":
                    mask = np.zeros((24, 36), np.uint8)
                    mask[4 + i : 9, 3:9] = 255
                    pixels[mask > 0] += 60
                    truth = tmp_path / category / "ground_truth" / kind
                    truth.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(mask).save(truth / f"{i}_mask.png")
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path
