"""These tests compare STFPM with the paper's formulas, computed by hand."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from lit_ad.methods.stfpm import STFPM
from tests.judging import map_of


@pytest.fixture
def model(resnet_file: Path) -> STFPM:
    torch.manual_seed(0)
    return STFPM("resnet10t", (1, 2), str(resnet_file)).eval()


def distances(model: STFPM, images: Tensor) -> list[np.ndarray]:
    """Compute squared distances of unit vectors position by position: L x (B, h, w)."""
    levels = []
    for pair in zip(model.teacher(images), model.student(images), strict=True):
        teacher, student = (level.detach().double().numpy() for level in pair)
        level = np.zeros((len(images), *teacher.shape[2:]))
        for b, y, x in np.ndindex(*level.shape):
            t, s = teacher[b, :, y, x], student[b, :, y, x]
            level[b, y, x] = np.sum((t / np.linalg.norm(t) - s / np.linalg.norm(s)) ** 2)
        levels.append(level)
    return levels


def test_the_loss_is_the_mean_over_batch_and_positions(model: STFPM) -> None:
    images = torch.rand(3, 3, 64, 64)
    expected = sum(level.mean() for level in distances(model, images))
    assert model.loss(model.compare(images, model.teacher(images))).item() == pytest.approx(expected, rel=1e-5)


def test_the_map_is_the_product_of_levels_and_the_score_is_its_maximum(model: STFPM) -> None:
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        small = map_of(model.predict(pixels / 255))
        prediction = model(pixels)
    fine, coarse = distances(model, pixels / 255)
    products = [one * cv2.resize(other, (16, 16)) for one, other in zip(fine, coarse, strict=True)]
    np.testing.assert_allclose(small[:, 0].numpy(), products, rtol=1e-4)
    expected = [cv2.resize(one, (64, 64)) for one in products]  # at the input size of the network
    np.testing.assert_allclose(prediction.anomaly_map[:, 0].numpy(), expected, rtol=1e-4)
    np.testing.assert_allclose(prediction.score.numpy(), np.max(expected, axis=(1, 2)), rtol=1e-4)


def test_the_score_is_zero_where_the_student_equals_its_teacher(model: STFPM) -> None:
    model.student.load_state_dict(model.teacher.model.state_dict(prefix="model."))
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    assert model(pixels).score.item() == pytest.approx(0, abs=1e-9)


def test_only_the_student_is_optimised(model: STFPM) -> None:
    optimizer = model.configure_optimizers()
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {
        id(p) for p in model.student.parameters()
    }
    assert isinstance(optimizer, torch.optim.SGD) and optimizer.defaults["lr"] == 0.4
    assert (optimizer.defaults["momentum"], optimizer.defaults["weight_decay"]) == (0.9, 1e-4)
