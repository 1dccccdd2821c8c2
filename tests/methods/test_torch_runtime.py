"""A checkpoint loads as a network that gives the results of its method, with its card."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lit_ad.errors import UserError
from lit_ad.methods.base import Method
from lit_ad.methods.network import make_inference_network
from lit_ad.methods.torch_runtime import load_network
from tests.methods.training import random_pixels


def test_a_checkpoint_loads_as_a_network_with_the_results_and_card_of_its_method(
    trained: dict[str, tuple[Method, Path]], resnet_file: Path, tmp_path: Path
) -> None:
    method, path = trained["STFPM"]
    pixels = random_pixels(2, 3, 64, 64).numpy()
    expected = np.asarray(make_inference_network(method)(pixels).anomaly_map)
    loaded = load_network(path)
    assert loaded.card.to_dict() == method.card.to_dict()
    for run in (loaded.network, loaded.network_for(2)):
        np.testing.assert_array_equal(np.asarray(run(pixels)[0]), expected)
    resnet = torch.load(resnet_file, weights_only=True)
    torch.save({name: 0.5 * value for name, value in resnet.items()}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"last\.ckpt was trained with weights of resnet10t"):
        load_network(path, weights=tmp_path / "other.pt")
