"""Methods to train in tests: a small method with a simple map, and every method with a small teacher."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lit_ad import methods
from lit_ad.batch import Batch, Prediction
from lit_ad.image.view import View
from lit_ad.methods import __all__ as ALL_METHODS
from lit_ad.methods.base import Method
from lit_ad.teachers import Teacher

# Its images have 256 pixels: see deploy/test_detector.py.
METHODS = [name for name in ALL_METHODS if name != "EfficientAD"]


class Brightness(Method):
    """A method whose map is the brightness of the image: bright pixels are anomalous."""

    def __init__(self, weights: str, view: View = View(None)) -> None:
        super().__init__(view)
        self.teacher = Teacher("resnet10t", (1,), weights)

    def compare(self, images: Tensor, features: list[Tensor]) -> Tensor:
        return images

    def loss(self, disagreement: Tensor) -> Tensor:
        return disagreement.mean()

    def detect(self, disagreement: Tensor) -> Prediction:
        return Prediction(disagreement.mean(dim=1, keepdim=True).float())


def trainer_in(folder: Path, **more: Any) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return L.Trainer(default_root_dir=folder, **{"enable_checkpointing": False, **quiet, **more})


class Batches(Dataset[Batch]):
    """A dataset whose items are whole batches."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        return self.batches[index]


def loader(batches: Sequence[Batch]) -> DataLoader[Batch]:
    return DataLoader(Batches(batches), batch_size=None)


def random_pixels(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def assert_same(one: Prediction, other: Prediction) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def made(name: str, small_models: dict[str, dict[str, Any]], view: View = View(64), **more: Any) -> Method:
    torch.manual_seed(0)
    given = {**small_models[name]["init_args"], "view": view, **more}
    method = getattr(methods, name)(**given)
    assert isinstance(method, Method)
    return method
