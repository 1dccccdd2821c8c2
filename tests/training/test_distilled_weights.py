"""The file of a distilled network is written after every validation and at the end, and can be loaded as a teacher."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from safetensors.torch import load_file

from lit_ad.data import AnomalyDataModule, MVTec
from lit_ad.image.view import View
from lit_ad.teachers.pdn import PDNTeacher
from lit_ad.training import DistilledWeights
from lit_ad.training.distillation import Distillation


class Written(L.Callback):
    """Record the weights in the file after each validation."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: list[dict[str, torch.Tensor]] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.current_epoch:
            self.found.append(load_file(self.file))
        else:
            assert not self.file.exists()


def test_the_file_has_the_latest_weights_after_each_validation(
    images: Path, resnet_file: Path, tmp_path: Path, quiet_trainer: Any
) -> None:
    torch.manual_seed(0)
    model = Distillation("resnet10t", (2, 3), str(resnet_file), width=1 / 32, view=View(64), lr=0.01)
    data = AnomalyDataModule(MVTec(images), model.view, batch_size=4)
    file = tmp_path / "pdn_small.safetensors"
    written = Written(file)
    quiet_trainer(tmp_path, DistilledWeights(), written, max_epochs=3, limit_train_batches=1).fit(model, data)
    weights = load_file(file)
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.pdn.state_dict().items())
    first, second = written.found
    for earlier, later in ((first, second), (second, weights)):
        assert any(not torch.equal(earlier[name], tensor) for name, tensor in later.items())
    assert (model.target_deviation != 1).any()  # the training images have set this before the first step
    assert PDNTeacher(str(file), width=1 / 32)(torch.rand(1, 3, 64, 64))[0].isfinite().all()
    assert not list(tmp_path.glob("*.tmp"))


def test_a_validation_without_training_writes_no_file(
    images: Path, resnet_file: Path, tmp_path: Path, quiet_trainer: Any
) -> None:
    model = Distillation("resnet10t", (2, 3), str(resnet_file), width=1 / 32, view=View(64))
    data = AnomalyDataModule(MVTec(images), model.view, batch_size=4)
    quiet_trainer(tmp_path, DistilledWeights()).validate(model, data, verbose=False)
    assert not list(tmp_path.iterdir())
