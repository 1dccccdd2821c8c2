"""The weights that students begin with."""

import math

import pytest
import torch
from torch import nn

from lit_ad.methods.initialisation import initialise_convolutions


def test_convolutions_are_drawn_by_their_fan_out_and_nothing_else_is() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(32, 64, 3), nn.ConvTranspose2d(64, 8, 2), nn.Linear(5, 4), nn.BatchNorm2d(3))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    initialise_convolutions(module)
    weight = module[0].weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 3 * 3)), rel=0.02)
    assert weight.mean().item() == pytest.approx(0, abs=0.002)
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"0.weight"}
