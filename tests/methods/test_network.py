"""A checkpoint as a detector's network."""

from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods import STFPM
from lit_ad.methods.network import inference, load_checkpoint

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64)).astype(np.uint8)


@pytest.fixture
def method(resnet_file: Path) -> STFPM:
    torch.manual_seed(0)
    return STFPM("resnet10t", (1, 2), str(resnet_file), View(64)).eval()


def test_it_says_what_the_method_says(method: STFPM) -> None:
    """uint8 in, arrays without gradients out."""
    found = inference(method)(PIXELS)
    with torch.no_grad():
        expected = method(torch.from_numpy(PIXELS)).anomaly_map
    assert found.score is None and expected is not None
    torch.testing.assert_close(torch.as_tensor(found.anomaly_map), expected)
    assert not torch.as_tensor(found.anomaly_map).requires_grad


def test_a_checkpoint_is_its_network_and_its_card(method: STFPM, resnet_file: Path, tmp_path: Path) -> None:
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(method)
    trainer.save_checkpoint(tmp_path / "best.ckpt")
    expected = inference(method)(PIXELS).anomaly_map
    network, card, for_callers = load_checkpoint(tmp_path / "best.ckpt")
    assert card == method.card
    for run in (network, for_callers(2)):
        np.testing.assert_array_equal(np.asarray(run(PIXELS)[0]), np.asarray(expected))
    resnet = torch.load(resnet_file, weights_only=True)
    torch.save({name: 0.5 * value for name, value in resnet.items()}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="this checkpoint was trained with weights of resnet10t"):
        load_checkpoint(tmp_path / "best.ckpt", weights=tmp_path / "other.pt")
