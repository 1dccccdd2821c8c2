"""Learning rates that depend on the number of steps work with cached features and resumed runs, although Lightning
makes the training loader, to count the steps, before it knows of either."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lit_ad import methods
from lit_ad.data import AnomalyDataModule, Loading, MVTec, Perlin
from lit_ad.image.view import View
from lit_ad.methods.base import Method
from lit_ad.training import Calibration, FeatureCache

COUNTING = ("DeSTSeg", "Dinomaly", "EfficientAD", "INPFormer", "MixedTeacher", "ReContrast")


class Watch(L.Callback):
    """Records the images of each step, and saves a checkpoint within the second epoch."""

    def __init__(self, checkpoint: Path | None = None) -> None:
        self.checkpoint = checkpoint
        self.indices: list[list[int]] = []
        self.cached: list[bool] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.indices.append(batch.index.tolist())
        self.cached.append(batch.features is not None)
        if self.checkpoint is not None and trainer.global_step == 4:
            trainer.save_checkpoint(self.checkpoint)


@pytest.mark.parametrize(
    ("name", "workers"),
    [
        *((name, 0) for name in COUNTING),
        *(pytest.param(name, 1, marks=[] if name == "EfficientAD" else pytest.mark.slow) for name in COUNTING),
    ],
)
def test_every_step_uses_cached_features_and_a_resumed_epoch_continues(
    name: str, workers: int, small_models: dict[str, dict[str, Any]], images: Path, tmp_path: Path, quiet_trainer: Any
) -> None:
    def fit(watch: Watch, resumed: Path | None = None) -> None:
        torch.manual_seed(0)
        arguments = small_models[name]["init_args"]
        method: Method = getattr(methods, name)(**{**arguments, "view": View(**arguments["view"])})
        loading = Loading(drop_last=True, num_workers=workers)
        data = AnomalyDataModule(MVTec(images), method.view, batch_size=3, corrupt=Perlin(), loading=loading)
        callbacks = [Calibration(), FeatureCache(True, tmp_path / "features"), watch]
        trainer = quiet_trainer(tmp_path, *callbacks, max_epochs=3, limit_train_batches=3, enable_checkpointing=False)
        trainer.fit(method, data, ckpt_path=resumed)

    first, second = Watch(tmp_path / "middle.ckpt"), Watch()
    fit(first)
    assert len(first.indices) == 9 and all(first.cached)
    fit(second, resumed=tmp_path / "middle.ckpt")
    assert second.indices == first.indices[4:] and all(second.cached)
