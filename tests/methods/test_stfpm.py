"""STFPM against the paper's formulas by hand."""

from pathlib import Path

import pytest
import torch

from lit_ad.methods.distances import unit_distance
from lit_ad.methods.stfpm import STFPM


@pytest.fixture
def model(resnet_file: Path) -> STFPM:
    torch.manual_seed(0)
    return STFPM("resnet10t", (1, 2), str(resnet_file)).eval()


def test_unit_distance_by_hand() -> None:
    teacher, student = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1), torch.tensor([0.0, 2.0]).view(1, 2, 1, 1)
    # (0.6, 0.8) against (0, 1): 0.36 + 0.04
    assert unit_distance(teacher, student).item() == pytest.approx(0.4, rel=1e-6)
    assert unit_distance(teacher.bfloat16(), student.bfloat16()).dtype == torch.float32


def test_loss_is_a_mean_over_batch_and_positions(model: STFPM) -> None:
    images = torch.rand(3, 3, 64, 64)
    teachers, students = model.teacher(images), [s.detach() for s in model.student(images)]
    expected = 0.0
    for teacher, student in zip(teachers, students, strict=True):
        batch, _, height, width = teacher.shape
        total = 0.0
        for b in range(batch):
            for y in range(height):
                for x in range(width):
                    t, s = teacher[b, :, y, x].double(), student[b, :, y, x].double()
                    total += float(((t / t.norm() - s / s.norm()) ** 2).sum())
        expected += total / (batch * height * width)
    assert model.loss(model.compare(images, teachers)).item() == pytest.approx(expected, rel=1e-4)
    first = model.compare(images[:1], [t[:1] for t in teachers])
    assert model.loss(first).item() < 2 * expected  # not a sum over the batch


def test_map_is_the_product_of_levels_and_score_its_maximum(model: STFPM) -> None:
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    prediction = model(pixels)
    fine, coarse = model.compare(pixels / 255, model.teacher(pixels / 255))
    assert (fine.shape, coarse.shape) == ((2, 1, 16, 16), (2, 1, 8, 8))
    product = fine * torch.nn.Upsample(size=(16, 16), mode="bilinear")(coarse)
    torch.testing.assert_close(model.detect([fine, coarse]).anomaly_map, product)
    expected = torch.nn.Upsample(size=(64, 64), mode="bilinear")(product)  # the network's input size
    torch.testing.assert_close(prediction.anomaly_map, expected)
    torch.testing.assert_close(prediction.score, expected.amax(dim=(1, 2, 3)))


def test_a_student_that_is_its_teacher_sees_no_anomaly(model: STFPM) -> None:
    model.student.load_state_dict(model.teacher.model.state_dict(prefix="model."))
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    assert model(pixels).score.item() == pytest.approx(0, abs=1e-9)


def test_only_the_student_is_optimised(model: STFPM) -> None:
    optimizer = model.configure_optimizers()
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {
        id(p) for p in model.student.parameters()
    }
    assert optimizer.defaults["lr"] == 0.4
    assert (optimizer.defaults["momentum"], optimizer.defaults["weight_decay"]) == (0.9, 1e-4)
