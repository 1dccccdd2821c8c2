"""The nominal images that the statistics of a method see."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lit_ad.data import AnomalyDataModule, Loading, MVTec
from lit_ad.errors import UserError
from lit_ad.training.nominal_images import data_of, held_out, nominal


class Look(L.Callback):
    """Record the batches of both splits at the start of a training."""

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.trained, self.held = list(nominal(trainer, pl_module)), list(held_out(trainer, pl_module))


def test_each_image_comes_once_with_its_features(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    model, look = brightness(), Look()
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, batch_size=3, loading=Loading(num_workers=0))
    quiet_trainer(tmp_path, look).fit(model, data)
    for seen, samples in ((look.trained, data.splits.train), (look.held, data.splits.val)):
        assert sum(len(images) for images, _ in seen if images is not None) == len(samples)
        for images, features in seen:
            assert images is not None and all(map(torch.equal, model.describe(images), features))


def test_a_trainer_without_a_datamodule_is_refused(brightness: Any) -> None:
    with pytest.raises(UserError, match="needs nominal images for its statistics: fit it with a DataModule"):
        data_of(L.Trainer(logger=False, barebones=True), brightness())
