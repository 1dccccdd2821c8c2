"""These tests compare MixedTeacher with its formulas, computed by hand."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods.mixed_teacher import MixedTeacher, ReducedResNet
from lit_ad.teachers import Backbone
from tests.judging import map_of


@pytest.fixture
def model(resnet_file: Path) -> MixedTeacher:
    torch.manual_seed(0)
    name, file = "resnet10t", str(resnet_file)
    return MixedTeacher(backbone=name, weights=file, deep_backbone=name, deep_weights=file, view=View(64)).eval()


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_the_shallow_student_has_the_shapes_of_the_paper() -> None:
    """For images of 256x256, the levels have 64 channels at 32x32 and 128 channels at 16x16."""
    teacher = Backbone("resnet18", (1, 2))
    found = ReducedResNet(teacher.channels)(torch.zeros(1, 3, 256, 256))
    assert [tuple(level.shape) for level in found] == [(1, 64, 32, 32), (1, 128, 16, 16)]
    assert Backbone("efficientnet_b0", (3, 4)).strides == [16, 32]


def distances(model: MixedTeacher, seen: torch.Tensor) -> list[list[np.ndarray]]:
    """Compute the authors' formula position by position: half the squared distance of unit vectors, 2 x L x (B, h,
    w)."""
    with torch.no_grad():
        shallow = [torch.nn.AvgPool2d(2)(level) for level in model.teacher(seen)]
        pairs = [
            (shallow, model.student(model.teacher.normalize(seen))),
            (model.deep_teacher(seen), model.deep_student(seen)),
        ]
    result = []
    for pair in pairs:
        levels = []
        for teacher, student in ([level.double().numpy() for level in two] for two in zip(*pair, strict=True)):
            level = np.zeros((len(seen), *teacher.shape[2:]))
            for b, y, x in np.ndindex(*level.shape):
                t, s = teacher[b, :, y, x], student[b, :, y, x]
                level[b, y, x] = 0.5 * np.sum((t / np.linalg.norm(t) - s / np.linalg.norm(s)) ** 2)
            levels.append(level)
        result.append(levels)
    return result


def test_the_loss_is_the_mean_over_batch_positions_and_levels(model: MixedTeacher) -> None:
    expected = sum(np.mean([level.mean() for level in pair]) for pair in distances(model, images()))
    loss = model.loss(model.compare(images(), model.describe(images())))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_each_student_learns_from_its_own_loss_alone(model: MixedTeacher) -> None:
    """The gradients of one student equal the gradients of its own loss."""
    model.train()
    model.loss(model.compare(images(), model.describe(images()))).backward()
    together = [p.grad.clone() for p in model.deep_student.parameters() if p.grad is not None]
    model.zero_grad()
    disagreement = model.compare(images(), model.describe(images()))
    torch.stack([level.mean() for level in disagreement.deep]).mean().backward()
    alone = [p.grad for p in model.deep_student.parameters() if p.grad is not None]
    assert alone and len(alone) == len(together)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other)


def pair_maps(model: MixedTeacher, seen: torch.Tensor) -> np.ndarray:
    """Compute the authors' map of each pair: the sum of its bilinearly resized levels, each divided by h * w: (2, B,
    64, 64)."""
    return np.array(
        [
            [sum(cv2.resize(one / one.size, (64, 64)) for one in image) for image in zip(*pair, strict=True)]
            for pair in distances(model, seen)
        ]
    )


def test_the_maps_of_the_pairs_equal_the_formula_of_the_authors(model: MixedTeacher) -> None:
    with torch.no_grad():
        maps = torch.cat(model.make_maps(model.compare(images(), model.describe(images()))), dim=1)
    expected = pair_maps(model, images())
    np.testing.assert_allclose(maps.numpy(), expected.transpose(1, 0, 2, 3), rtol=1e-4, atol=2e-8)
    assert expected.min() > 2e-5


def test_the_map_and_the_score_equal_the_formula(model: MixedTeacher) -> None:
    held_out = [(images(4), model.describe(images(4))), (images(2), model.describe(images(2)))]
    with torch.no_grad():
        model.calibrate([], held_out)
        prediction = model((255 * images(4)).round().to(torch.uint8))
    means = pair_maps(model, torch.cat([images(4), images(2)])).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(model.pair_means.numpy(), means, rtol=1e-5)
    shallow, deep = pair_maps(model, (255 * images(4)).round() / 255)
    expected = [gaussian_filter(a / means[0] * b / means[1], 4.0) for a, b in zip(shallow, deep, strict=True)]
    np.testing.assert_allclose(prediction.anomaly_map[:, 0].numpy(), expected, rtol=1e-4)
    np.testing.assert_allclose(prediction.score.numpy(), np.max(expected, axis=(1, 2)), rtol=1e-4)


def test_the_shallow_student_has_the_layers_and_initial_weights_of_a_resnet() -> None:
    """The student has a 7x7 stem and one block for each level, all of stride 2. Weights are He's by fan out, scales are
    1."""
    torch.manual_seed(0)
    student = ReducedResNet([64, 128])
    convolutions = [m for m in student.modules() if isinstance(m, nn.Conv2d)]
    kernels = [(m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0]) for m in convolutions]
    first = [(64, 64, 3, 2), (64, 64, 3, 1), (64, 64, 1, 2)]
    second = [(64, 128, 3, 2), (128, 128, 3, 1), (64, 128, 1, 2)]
    assert kernels == [(3, 64, 7, 2), *first, *second]
    for layer in convolutions:
        fan_out = layer.out_channels * layer.kernel_size[0] ** 2
        assert layer.bias is None
        assert layer.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    assert all(bool((m.weight == 1).all()) for m in student.modules() if isinstance(m, nn.BatchNorm2d))


def test_the_learning_rate_of_adam_follows_one_cycle(model: MixedTeacher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over 101 steps, the rate goes from 1.6e-4 to 4e-3 at 30 % and down to 1.6e-8. The decay of the first moment goes
    in the opposite direction."""
    monkeypatch.setattr(model, "total_steps", lambda **_: 101)
    configured = model.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert isinstance(optimizer, torch.optim.Adam) and configured["lr_scheduler"]["interval"] == "step"
    seen = []
    for _ in range(101):
        group = optimizer.param_groups[0]
        seen.append((group["lr"], group["betas"][0]))
        optimizer.step()
        scheduler.step()
    (start, decay), (end, last_decay) = seen[0], seen[-1]
    assert (start, decay, end, last_decay) == pytest.approx((1.6e-4, 0.95, 1.6e-8, 0.95))
    top = max(range(101), key=lambda step: seen[step])
    assert top == pytest.approx(30, abs=1) and seen[top] == pytest.approx((4e-3, 0.85), rel=1e-2)
    optimised = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for n, p in model.named_parameters() if "student" in n}


def test_the_map_is_zero_where_the_deep_student_equals_its_teacher(model: MixedTeacher) -> None:
    model.deep_student.load_state_dict(model.deep_teacher.model.state_dict(prefix="model."))
    model.pair_means.fill_(1)
    # The map of the deep pair is zero, so the product is zero.
    assert map_of(model.predict(images())).abs().max() < 1e-5


@pytest.mark.parametrize("size", [(70, 90), (65, 81)])
def test_the_map_has_the_size_of_images_that_no_stride_divides(model: MixedTeacher, size: tuple[int, int]) -> None:
    model.pair_means.fill_(1)
    assert map_of(model.predict(torch.rand(1, 3, *size))).shape == (1, 1, *size)


def test_taps_of_other_strides_are_refused(resnet_file: Path) -> None:
    with pytest.raises(UserError, match=r"strides \[8, 16\].*choose taps of strides \[4, 8\]"):
        MixedTeacher("resnet10t", (2, 3), str(resnet_file), "resnet10t", (3,), str(resnet_file))


def test_a_gaussian_of_width_0_is_refused(resnet_file: Path) -> None:
    with pytest.raises(UserError, match=r"model\.sigma is 0, but the width of a Gaussian must be above 0"):
        MixedTeacher("resnet10t", (1, 2), str(resnet_file), "resnet10t", (3,), str(resnet_file), sigma=0)


def test_a_test_of_an_untrained_model_is_refused(model: MixedTeacher) -> None:
    with pytest.raises(UserError, match="has had none: train it"):
        model.on_test_start()
