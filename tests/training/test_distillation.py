"""These tests compare the target and the loss of the distillation with values computed by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from lit_ad.image.view import View
from lit_ad.training.distillation import Distillation, average_channels, cut_patches, join_levels


def test_patches_and_averages_of_channels_equal_values_computed_by_hand() -> None:
    level = torch.rand(2, 3, 4, 5)
    around = cut_patches(level)
    padded = np.pad(level.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    for y in range(4):
        for x in range(5):
            expected = padded[:, :, y : y + 3, x : x + 3].reshape(2, 27)
            np.testing.assert_array_equal(around[:, :, y, x].numpy(), expected)
    halves = around[:, :26]
    expected = halves.numpy().reshape(2, 13, 2, 4, 5).mean(axis=2)
    np.testing.assert_allclose(average_channels(halves, 13).numpy(), expected, rtol=1e-5)


def test_levels_are_joined_without_averaging_where_the_channels_fit() -> None:
    fine, coarse = torch.rand(1, 128, 8, 8), torch.rand(1, 256, 4, 4)
    target = join_levels([fine, coarse], 384, (8, 8))
    torch.testing.assert_close(target[:, :128], fine)
    torch.testing.assert_close(target[:, 128:], torch.nn.Upsample(size=(8, 8), mode="bilinear")(coarse))
    assert join_levels([torch.rand(1, 512, 8, 8), torch.rand(1, 1024, 4, 4)], 384, (8, 8)).shape == (1, 384, 8, 8)


def test_the_loss_is_the_mean_square_of_the_standardised_difference(resnet_file: Path) -> None:
    torch.manual_seed(0)
    model = Distillation("resnet10t", (2, 3), str(resnet_file), width=1 / 32, view=View(128))
    images = torch.rand(2, 3, 128, 128)
    model.target_mean.uniform_(-1, 1)
    model.target_deviation.uniform_(0.5, 2)
    with torch.no_grad():
        (target,) = model.describe(images)
        mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        said = model.pdn((avg_pool2d(images, 2) - mean) / deviation)
        loss = model.loss(images)
    assert said.shape == target.shape == (2, 384, 16, 16)
    expected = (target - model.target_mean.view(-1, 1, 1)) / model.target_deviation.view(-1, 1, 1) - said
    assert loss.item() == pytest.approx(expected.double().square().mean().item(), rel=1e-5)


def test_the_network_at_half_the_image_size_has_the_map_size_of_the_teacher(resnet_file: Path) -> None:
    """The sides of the view are multiples of 8 pixels, so the map of the network has whole cells."""
    model = Distillation("resnet10t", (2, 3), str(resnet_file), width=1 / 32, view=View(128))
    assert model.view.size == (128, 128) and model.view.multiple == 8
    images = torch.rand(1, 3, 128, 128)
    assert model.describe(images)[0].shape == model.pdn(avg_pool2d(images, 2)).shape == (1, 384, 16, 16)
