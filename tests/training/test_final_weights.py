"""Weights that are set only at the end of a training are saved."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging

from lit_ad.data import AnomalyDataModule, Loading, MVTec
from lit_ad.training import Calibration
from lit_ad.training.checkpoints import KeepProgress
from lit_ad.training.final_weights import FinalWeights


@pytest.mark.parametrize("averaging", [None, EMAWeightAveraging, StochasticWeightAveraging])
def test_averaged_weights_that_no_checkpoint_holds_are_saved_in_a_file(
    averaging: Any, parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    class Gain(brightness):  # type: ignore[misc]
        def loss(self, disagreement: torch.Tensor) -> torch.Tensor:
            loss: torch.Tensor = disagreement.mean() * self.weight
            return loss

    last = tmp_path / "last.ckpt"
    settings = {"swa_lrs": 0.1, "swa_epoch_start": 1} if averaging is StochasticWeightAveraging else {}
    callbacks = [] if averaging is None else [averaging(**settings)]
    model = Gain()
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, batch_size=4, loading=Loading(num_workers=0))
    callbacks += [Calibration(0.4), FinalWeights(last), KeepProgress(last)]
    quiet_trainer(tmp_path, *callbacks, max_epochs=3).fit(model, data)
    latest, file = torch.load(last, weights_only=True), tmp_path / "averaged.ckpt"
    if averaging is not StochasticWeightAveraging:
        assert not file.exists()
        assert latest["state_dict"]["weight"] == model.weight
        return
    averaged = torch.load(file, weights_only=True)
    assert averaged["state_dict"]["weight"] == model.weight > latest["state_dict"]["weight"]
    assert averaged["lit_ad"]["decision"] is None
    assert latest["lit_ad"]["decision"] is not None
