"""The initial weights of students."""

import math

import pytest
import torch
from torch import nn

from lit_ad.methods.initialisation import initialise_convolutions, initialise_linear_layers


def test_only_weights_of_convolutions_are_drawn_by_their_fan_out() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(32, 64, 3), nn.ConvTranspose2d(64, 8, 2), nn.Linear(5, 4), nn.BatchNorm2d(3))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    initialise_convolutions(module)
    first = module[0]
    assert isinstance(first, nn.Conv2d)
    weight = first.weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 3 * 3)), rel=0.02)
    assert weight.mean().item() == pytest.approx(0, abs=0.002)
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"0.weight"}


def test_only_linear_layers_are_drawn_from_a_cut_normal_distribution() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 400), nn.Conv2d(3, 4, 3), nn.LayerNorm(5))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    initialise_linear_layers(module)
    weight, bias = module[0].parameters()
    assert weight.abs().max() <= 0.03 and not bias.any()
    assert weight.std().item() == pytest.approx(0.00987, rel=0.02)  # a deviation of 0.01, cut at three deviations
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"0.weight", "0.bias"}
