"""MixedTeacher against its formulas by hand."""

from pathlib import Path

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn.functional import cosine_similarity, interpolate

from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods.mixed_teacher import MixedTeacher, ReducedResNet
from lit_ad.teachers import Backbone


@pytest.fixture
def model(resnet_file: Path) -> MixedTeacher:
    torch.manual_seed(0)
    two = {"backbone": "resnet10t", "weights": str(resnet_file)}
    return MixedTeacher(**two, deep_backbone="resnet10t", deep_weights=str(resnet_file), view=View(64)).eval()


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_the_papers_shapes() -> None:
    """Of 256x256 images: 64 channels at 32x32 and 128 at 16x16."""
    teacher = Backbone("resnet18", (1, 2))
    found = ReducedResNet(teacher.channels)(torch.zeros(1, 3, 256, 256))
    assert [tuple(level.shape) for level in found] == [(1, 64, 32, 32), (1, 128, 16, 16)]
    assert Backbone("efficientnet_b0", (3, 4)).strides == [16, 32]


def distances(model: MixedTeacher, seen: torch.Tensor) -> list[list[torch.Tensor]]:
    """Half the squared distance of unit vectors is one minus their cosine."""
    pooled = [torch.nn.AvgPool2d(2)(level) for level in model.teacher(seen)]
    pairs = [
        (pooled, model.student(model.teacher.normalize(seen))),
        (model.deep_teacher(seen), model.deep_student(seen)),
    ]
    return [[1 - cosine_similarity(t, s, dim=1)[:, None] for t, s in zip(*pair, strict=True)] for pair in pairs]


def test_loss_is_the_mean_over_batch_positions_and_levels(model: MixedTeacher) -> None:
    expected = sum(float(sum(level.mean() for level in pair)) / 2 for pair in distances(model, images()))
    loss = model.loss(model.compare(images(), model.describe(images())))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_pairs_train_apart(model: MixedTeacher) -> None:
    """The gradients of one student are those of its own loss alone."""
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


def test_map_by_hand(model: MixedTeacher) -> None:
    held_out = [(images(4), model.describe(images(4))), (images(2), model.describe(images(2)))]
    with torch.no_grad():
        model.calibrate([], held_out)
        sums = [
            sum(interpolate(level, (64, 64), mode="bilinear") for level in pair)
            for pair in distances(model, torch.cat([images(4), images(2)]))
        ]
        for number in (0, 1):
            assert float(model.map_means[number]) == pytest.approx(float(sums[number].mean()), rel=1e-5)
        raw = (sums[0] / sums[0].mean() * sums[1] / sums[1].mean())[:4, 0].numpy()
        found = model.predict(images(4)).anomaly_map
    assert found.shape == (4, 1, 64, 64)
    for one, other in zip(raw, found[:, 0].numpy(), strict=True):
        expected = gaussian_filter(one, 4.0, mode="mirror")
        assert other == pytest.approx(expected, rel=1e-3)


def test_students_that_are_their_teachers_see_no_anomaly(model: MixedTeacher) -> None:
    model.deep_student.load_state_dict(model.deep_teacher.model.state_dict(prefix="model."))
    model.map_means.fill_(1)
    assert model.predict(images()).anomaly_map.abs().max() < 1e-5  # of the deep pair is none, and so of their product


@pytest.mark.parametrize("size", [(70, 90), (65, 81)])
def test_sizes_that_no_stride_divides(model: MixedTeacher, size: tuple[int, int]) -> None:
    model.map_means.fill_(1)
    assert model.predict(torch.rand(1, 3, *size)).anomaly_map.shape == (1, 1, *size)


def test_taps_of_other_strides(resnet_file: Path) -> None:
    with pytest.raises(UserError, match=r"strides \[8, 16\].*choose taps of strides \[4, 8\]"):
        MixedTeacher("resnet10t", (2, 3), str(resnet_file), "resnet10t", (3,), str(resnet_file))


def test_an_untrained_model_is_not_measured(model: MixedTeacher) -> None:
    with pytest.raises(UserError, match="has had none: train it"):
        model.on_test_start()
