"""These tests compare ReContrast with the paper's formulas in NumPy and SciPy, and its gradients with a loss without
the easy points."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from lit_ad.batch import Others
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods.recontrast import ReContrast, schedule_hardness, select_hard
from tests.methods.levels_by_hand import as_arrays, distances, one_minus_cosine, stretched_distances


def made(resnet_file: Path, **arguments: object) -> ReContrast:
    torch.manual_seed(0)
    return ReContrast("resnet10t", weights=str(resnet_file), view=View(64), **arguments)  # type: ignore[arg-type]


@pytest.fixture
def model(resnet_file: Path) -> ReContrast:
    """Make a model whose trained encoder differs from the frozen encoder."""
    model = made(resnet_file).eval()
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(0.1 * parameter.std(correction=0) * torch.randn_like(parameter))
    return model


# Which features are compared.


def test_the_trained_encoder_begins_with_the_weights_of_the_frozen_encoder(resnet_file: Path) -> None:
    model, images = made(resnet_file).eval(), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        for frozen, trained in zip(model.teacher(images), model.encoder(images), strict=True):
            assert torch.equal(frozen, trained)
    kept = set(model.state_dict())
    assert not any(name.startswith("teacher.") for name in kept)
    assert any(name.startswith("encoder.") for name in kept)


def test_the_features_of_each_encoder_are_restored_from_the_other_encoder(model: ReContrast) -> None:
    """Step by step: the bottleneck and the trunk run once for each encoder, then the head of the other encoder."""
    images = torch.rand(3, 3, 64, 96)
    with torch.no_grad():
        frozen, trained = model.teacher(images), model.encoder(images)
        expected = []
        for source, targets, heads in (
            (trained, frozen, model.decoder.frozen),
            (frozen, trained, model.decoder.trained),
        ):
            levels = model.decoder.trunk(model.bottleneck(source))
            expected += [(t, head(level)) for t, level, head in zip(targets, levels, heads, strict=True)]
        found = model.compare(images, frozen)
    assert len(found) == 6
    torch.testing.assert_close(found, expected)
    assert [tuple(level.shape[2:]) for level, _ in found] == 2 * [(16, 24), (8, 12), (4, 6)]


def test_in_training_both_encoders_share_one_batch(model: ReContrast) -> None:
    """In training, the BatchNorm of the decoder sees the frozen features beside the trained features, so the restored
    features depend on both. In evaluation they do not."""
    images = torch.rand(2, 3, 64, 64)
    frozen = model.describe(images)
    for training in (True, False):
        model.train(training).encoder.eval()
        with torch.no_grad():
            one, other = (model.compare(images, levels) for levels in (frozen, [2 * level for level in frozen]))
        for (_, said), (_, again) in zip(one[:3], other[:3], strict=True):
            assert torch.allclose(said, again, rtol=1e-3) != training


def test_the_targets_have_no_gradient(model: ReContrast) -> None:
    images = torch.rand(2, 3, 64, 64)
    pairs = model.compare(images, model.teacher(images))
    assert not any(target.requires_grad for target, _ in pairs) and all(said.requires_grad for _, said in pairs)
    encoder = list(model.encoder.parameters())
    # The features restored from the frozen encoder send no gradient to the trained encoder.
    from_frozen = torch.autograd.grad(model.loss(pairs[3:]), encoder, retain_graph=True, allow_unused=True)
    assert all(gradient is None or not gradient.any() for gradient in from_frozen)
    from_trained = torch.autograd.grad(model.loss(pairs[:3]), encoder)
    assert from_trained[0].any() and from_trained[-1].any()


@pytest.mark.parametrize("batchnorm", ["train", "eval"])
def test_the_statistics_of_the_trained_encoder_change_only_where_batchnorm_is_train(
    batchnorm: str, resnet_file: Path
) -> None:
    model = made(resnet_file, batchnorm=batchnorm).train()
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    means = {name: layer.running_mean for name, layer in layers.items() if layer.running_mean is not None}
    before = {name: mean.clone() for name, mean in means.items()}
    images = torch.rand(2, 3, 64, 64)
    model.loss(model.compare(images, model.describe(images))).backward()
    moved = {name.split(".")[0] for name, mean in means.items() if not torch.equal(mean, before[name])}
    assert moved == ({"encoder"} if batchnorm == "train" else set()) | {"bottleneck", "decoder"}
    assert all(p.grad is not None for p in model.encoder.parameters())  # the weights learn in both cases
    assert not model.eval().encoder.training and model.train().encoder.training == (batchnorm == "train")


# The loss.


def test_the_loss_equals_the_formula(model: ReContrast) -> None:
    images = torch.rand(3, 3, 64, 64)
    pairs = model.compare(images, model.describe(images))
    levels = [np.mean([one_minus_cosine(t, s) for t, s in zip(*pair, strict=True)]) for pair in as_arrays(pairs)]
    assert model.loss(pairs).item() == pytest.approx(sum(levels[:3]) / 2 + sum(levels[3:]) / 2, rel=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.loss(model.compare(images, model.describe(images))).dtype == torch.float32


def test_the_loss_omits_more_points_as_training_goes_on() -> None:
    assert [schedule_hardness(step, 200.0) for step in (0, 50, 100, 150, 200, 2000)] == [-3, -2, -1, 0, 1, 1]
    assert schedule_hardness(0, 0.0) == 1  # a ramp of 0 steps
    values = torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])  # their mean is 3 and their deviation sqrt(14 / 3) = 2.16
    assert select_hard(values, -3.0).all()
    assert select_hard(values, 0.0).tolist() == [[[False, False], [True, True]]]
    assert select_hard(values, 1.0).tolist() == [[[False, False], [False, True]]]


@pytest.mark.parametrize(("step", "least"), [(0, 0), (5, 0.05), (10, 0.5)])
def test_gradients_of_easy_points_are_zero(
    step: int, least: float, resnet_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient equals central differences of the loss where a point lies alpha deviations above the mean, else
    zero."""
    model = made(resnet_file)
    shapes = [(2, 3, 4, 4), (2, 4, 2, 2), (2, 3, 2, 2)] * 2
    targets, said = ([torch.rand(shape, dtype=torch.float64) for shape in shapes] for _ in range(2))
    leaves = [level.clone().requires_grad_() for level in said]
    monkeypatch.setattr(model, "compare", lambda *_: [(t, leaf * 1) for t, leaf in zip(targets, leaves, strict=True)])
    monkeypatch.setattr(ReContrast, "global_step", step)
    model.ramp_steps = 10.0
    loss = model.training_loss(torch.empty(0), [], Others())
    assert loss.item() == model.loss(list(zip(targets, said, strict=True))).item()  # only the gradient changes
    loss.backward()
    kept: list[bool] = []
    for target, level, leaf in zip(targets, said, leaves, strict=True):
        points = distances(target.numpy(), level.numpy())
        hard = points >= points.mean() + (-3 + 4 * step / 10) * points.std(ddof=1)
        gradient = np.zeros(level.shape)
        for place in np.ndindex(*level.shape):
            ends = []
            for shift in (1e-6, -1e-6):
                moved = level.numpy().copy()
                moved[place] += shift
                pairs = zip(target.numpy(), moved, strict=True)
                ends.append(np.mean([one_minus_cosine(t, s) for t, s in pairs]) / 2)
            gradient[place] = (ends[0] - ends[1]) / 2e-6
        assert leaf.grad is not None
        np.testing.assert_allclose(leaf.grad.numpy(), gradient * hard[:, None], rtol=1e-5, atol=1e-9)
        kept += hard.ravel().tolist()
    assert 1 - np.mean(kept) >= least and all(kept) == (step == 0)


# The map.


def test_the_map_is_the_smoothed_sum_of_six_levels(model: ReContrast) -> None:
    pixels = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    images = pixels / 255
    levels = stretched_distances(as_arrays(model.compare(images, model.describe(images))), (64, 96))
    expected = np.stack([gaussian_filter(image, 4) for image in levels.sum(axis=0)])
    prediction = model(pixels)
    np.testing.assert_allclose(prediction.anomaly_map.detach().numpy()[:, 0], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(prediction.score.detach().numpy(), expected.max(axis=(1, 2)), rtol=1e-4)


# The training.


def test_the_encoder_has_a_lower_learning_rate_than_the_students(
    model: ReContrast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "total_steps", lambda **_: 2000)
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.AdamW) and model.ramp_steps == 200
    students, encoder = optimizer.param_groups
    assert (students["lr"], encoder["lr"]) == (2e-3, 1e-5)
    assert {(g["weight_decay"], g["betas"]) for g in optimizer.param_groups} == {(1e-5, (0.9, 0.999))}
    names = {id(parameter): name.split(".")[0] for name, parameter in model.named_parameters()}
    assert {names[id(p)] for p in encoder["params"]} == {"encoder"}
    assert {names[id(p)] for p in students["params"]} == {"bottleneck", "decoder"}
    optimised = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for p in model.parameters() if p.requires_grad}


def test_training_lowers_the_loss(resnet_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = made(resnet_file).train(), torch.rand(4, 3, 64, 64)
    monkeypatch.setattr(model, "total_steps", lambda **_: 15)
    optimizer, losses, frozen = model.configure_optimizers(), [], model.describe(images)
    for _ in range(15):
        losses.append(model.training_loss(images, frozen, Others()))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    assert all(map(torch.equal, model.describe(images), frozen))


def test_a_vit_and_sizes_that_do_not_fit_are_refused(resnet_file: Path, vit_file: Path) -> None:
    with pytest.raises(UserError, match=r"ReContrast takes two levels of a CNN.*have strides \[16, 16\]"):
        ReContrast("deit_tiny_patch16_224", (3, 7), str(vit_file))
    with pytest.raises(UserError, match="an embedding of stride 32"):
        made(resnet_file)(torch.zeros(1, 3, 48, 64, dtype=torch.uint8))
