"""These tests compare DeSTSeg with the paper's formulas in NumPy, and check that each of the two phases changes its own
network alone."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lit_ad.batch import Others
from lit_ad.data import AnomalyDataModule, Loading, MVTec, Perlin
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods.destseg import (
    DeSTSeg,
    Segmentation,
    Student,
    compute_segmentation_loss,
    compute_student_loss,
    join_products,
)
from lit_ad.methods.reverse_distillation import Block
from lit_ad.training import Calibration


def made(resnet_file: Path, **arguments: Any) -> DeSTSeg:
    torch.manual_seed(0)
    return DeSTSeg("resnet10t", weights=str(resnet_file), view=View(64), **arguments)


@pytest.fixture
def model(resnet_file: Path) -> DeSTSeg:
    return made(resnet_file).eval()


def unit(level: np.ndarray) -> np.ndarray:
    """Scale vectors to length 1: (B, C, h, w) -> the same shape."""
    return np.asarray(level / np.linalg.norm(level, axis=1, keepdims=True))


def levels(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


SHAPES = ((2, 3, 8, 8), (2, 4, 4, 4), (2, 5, 2, 2))


# The losses.


def test_the_student_loss_equals_the_formula() -> None:
    teachers, students = levels(*SHAPES), levels(*SHAPES)
    pairs = zip(teachers, students, strict=True)
    expected = sum(np.mean(1 - (unit(t.numpy()) * unit(s.numpy())).sum(axis=1)) for t, s in pairs)
    assert compute_student_loss(teachers, students).item() == pytest.approx(expected, rel=1e-12)


def loss_by_hand(logits: np.ndarray, truth: np.ndarray, gamma: float) -> float:
    """Compute focal loss and L1 cell by cell, from two arrays of (B, 1, h, w)."""
    focal, absolute = [], []
    for logit, defect in zip(logits.ravel(), truth.ravel(), strict=True):
        likely = 1 / (1 + np.exp(-logit))
        p = likely if defect else 1 - likely
        focal.append(-((1 - p) ** gamma) * np.log(p))
        absolute.append(abs(likely - defect))
    return float(np.mean(focal) + np.mean(absolute))


@pytest.mark.parametrize("gamma", [4.0, 0.0, 2.0])
def test_the_segmentation_loss_equals_the_formula(gamma: float) -> None:
    logits, corruption = 2 * torch.randn(2, 1, 5, 6, dtype=torch.float64), torch.rand(2, 1, 20, 24) > 0.6
    # The bilinear mean of four pixels is the mean of the two middle pixels, in rows and in columns.
    middle = corruption.numpy().reshape(2, 1, 5, 4, 6, 4)[:, :, :, 1:3, :, 1:3].mean(axis=(3, 5))
    truth = middle >= 0.5
    assert 0.1 < truth.mean() < 0.9
    expected = loss_by_hand(logits.numpy(), truth, gamma)
    assert compute_segmentation_loss(logits, corruption, gamma).item() == pytest.approx(expected, rel=1e-12)


def test_the_gradient_of_the_segmentation_loss_equals_finite_differences() -> None:
    logits = (2 * torch.randn(2, 1, 3, 4, dtype=torch.float64)).requires_grad_()
    corruption = torch.rand(2, 1, 3, 4) > 0.5
    (gradient,) = torch.autograd.grad(compute_segmentation_loss(logits, corruption, 4.0), logits)
    for place in np.ndindex(*logits.shape):
        ends = []
        for shift in (1e-6, -1e-6):
            moved = logits.detach().numpy().copy()
            moved[place] += shift
            ends.append(loss_by_hand(moved, corruption.numpy(), 4.0))
        assert gradient[place].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-9)


def test_the_segmentation_loss_of_extreme_logits_is_finite() -> None:
    logits = torch.tensor([[[[200.0, -200.0]]]], requires_grad=True)
    loss = compute_segmentation_loss(logits, torch.tensor([[[[False, True]]]]), 4.0)
    assert loss.item() == pytest.approx(201)
    loss.backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


# The networks.


def test_the_products_of_levels_equal_the_formula() -> None:
    teachers, students = levels(*SHAPES), levels(*SHAPES)
    found = join_products(teachers, students).numpy()
    assert found.shape == (2, 12, 8, 8)
    np.testing.assert_allclose(found[:, :3], -unit(teachers[0].numpy()) * unit(students[0].numpy()), rtol=1e-12)
    coarse = -unit(teachers[2].numpy()) * unit(students[2].numpy())
    # At 8x8, a level of 2x2 has its outer values up to an eighth of the image from the edge.
    np.testing.assert_allclose(found[:, 7:, 0, 0], coarse[..., 0, 0], rtol=1e-12)
    np.testing.assert_allclose(found[:, 7:, 7, 0], coarse[..., 1, 0], rtol=1e-12)
    # The two centres lie at 1.5 and 5.5, this pixel lies at 3.
    between = 0.625 * coarse[..., 0, 0] + 0.375 * coarse[..., 0, 1]
    np.testing.assert_allclose(found[:, 7:, 0, 3], between, rtol=1e-12)
    same = join_products(teachers, teachers).numpy()
    np.testing.assert_allclose(same[:, :3].sum(axis=1), -1)
    assert join_products([t.bfloat16() for t in teachers], [s.bfloat16() for s in students]).dtype == torch.bfloat16


def first_convolution(block: nn.Module) -> nn.Conv2d:
    assert isinstance(block, Block)
    layer = block.residual[0]
    assert isinstance(layer, nn.Conv2d)
    return layer


def test_the_student_encodes_one_level_deeper_and_decodes_the_levels() -> None:
    student = Student("resnet18", (1, 2, 3)).eval()
    stages = [stage for stage in student.decoder if isinstance(stage, nn.Sequential)]
    firsts = [first_convolution(stage[0]) for stage in stages]
    widths = [(first.in_channels, first.out_channels) for first in firsts]
    assert widths == [(512, 512), (512, 256), (256, 128), (128, 64)]
    assert [len(stage) for stage in stages] == [2] * len(student.decoder)
    with torch.no_grad():
        shapes = [tuple(level.shape) for level in student(torch.rand(1, 3, 64, 96))]
    assert shapes == [(1, 64, 16, 24), (1, 128, 8, 12), (1, 256, 4, 6)]
    assert not any(isinstance(m, nn.ConvTranspose2d) for m in student.modules())


def test_the_segmentation_network_has_the_layers_of_the_paper() -> None:
    network = Segmentation([64, 128, 256], dropout=0.25)
    first, second = network.blocks
    assert first_convolution(first).in_channels == 448 and first_convolution(second).in_channels == 256
    dilations = {m.dilation[0] for m in network.head.modules() if isinstance(m, nn.Conv2d)}
    assert dilations == {1, 6, 12, 18}
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.25]
    teachers = [torch.rand(2, c, 64 // s, 96 // s) for c, s in ((64, 4), (128, 8), (256, 16))]
    assert network(teachers, teachers).shape == (2, 1, 16, 24)


# Which network sees which image in training.


def corrupted(count: int = 3) -> tuple[Tensor, Others]:
    images = torch.rand(count, 3, 64, 64)
    where = torch.zeros(count, 1, 64, 64, dtype=torch.bool)
    where[:, :, 20:50, 10:40] = True
    return images, Others(corrupted=torch.where(where, 1 - images, images), corruption=where)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_student_gets_the_corrupted_image_and_the_teacher_the_clean_one(reduction: str, resnet_file: Path) -> None:
    model = made(resnet_file, reduction=reduction).eval()
    model.student_steps = 1
    images, others = corrupted()
    with torch.no_grad():
        clean = model.describe(images)
        expected = compute_student_loss(model.teacher(images), model.student(others.corrupted)).item()
        found = model.training_loss(images, clean, others).item()
    assert found == pytest.approx(expected * (3 if reduction == "sum" else 1), rel=1e-6)


def test_the_segmentation_network_gets_features_of_the_corrupted_image_from_both(model: DeSTSeg) -> None:
    images, others = corrupted()
    with torch.no_grad():
        teachers, students = model.teacher(others.corrupted), model.student(others.corrupted)
        logits = model.segmentation(teachers, students)
        assert others.corruption is not None
        expected = compute_segmentation_loss(logits, others.corruption, 4.0).item()
        assert model.training_loss(images, [], others).item() == pytest.approx(expected, rel=1e-6)
    assert logits.shape == (3, 1, 16, 16)


def test_the_validation_loss_assumes_no_defect(model: DeSTSeg) -> None:
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        found = model.compare(images, model.describe(images))
        nothing = loss_by_hand(found.logits.double().numpy(), np.zeros((2, 1, 16, 16)), 4.0)
        expected = compute_student_loss(found.teachers, found.students).item() + nothing
    assert model.loss(found).item() == pytest.approx(expected, rel=1e-5)


class Phases(L.Callback):
    """Record the state of all networks before the first step and after each step, and the number of the optimizer's
    states."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []
        self.momenta: list[int] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.states.append({name: value.clone() for name, value in pl_module.state_dict().items()})

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        self.on_train_start(trainer, pl_module)
        self.momenta.append(len(trainer.optimizers[0].state))

    def moved(self, step: int) -> set[str]:
        """Return the networks whose weights or statistics a step changed."""
        before, after = self.states[step], self.states[step + 1]
        return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("processes", [1, 2])
def test_each_phase_changes_only_its_own_network(
    processes: int, resnet_file: Path, images: Path, tmp_path: Path, quiet_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No weight decay, momentum or statistic changes the other network. With several processes, idle parameters have a
    gradient of zero, and the same holds."""
    monkeypatch.setattr("lit_ad.methods.destseg.count_processes", lambda: processes)
    model, phases = made(resnet_file, student_share=0.5, weight_decay=0.1), Phases()
    data = AnomalyDataModule(MVTec(images), model.view, 4, corrupt=Perlin(), loading=Loading(num_workers=0))
    trainer = quiet_trainer(tmp_path, Calibration(0.4), phases, max_epochs=3, limit_train_batches=2)
    trainer.fit(model, data)
    assert model.student_steps == 3 and len(phases.momenta) == 6
    moved = [phases.moved(step) for step in range(6)]
    assert moved == 3 * [{"student"}] + 3 * [{"segmentation"}]
    student = len(list(model.student.parameters()))
    assert phases.momenta == 3 * [student] + 3 * [student + len(list(model.segmentation.parameters()))]


def test_each_network_has_its_own_learning_rate(model: DeSTSeg, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "total_steps", lambda **_: 5000)
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.SGD) and model.student_steps == 1000
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates: dict[str, float] = {}
    for group in optimizer.param_groups:
        assert (group["momentum"], group["weight_decay"]) == (0.9, 1e-4)
        rates |= {names[id(p)]: group["lr"] for p in group["params"]}
    prefixes = {"student.": 0.4, "segmentation.blocks.": 0.1, "segmentation.head.": 0.01}
    assert set(rates) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(rate == prefixes[next(p for p in prefixes if name.startswith(p))] for name, rate in rates.items())


@pytest.mark.slow
def test_training_lowers_the_losses_of_both_phases(resnet_file: Path) -> None:
    """The model learns one batch by heart: first the loss of the student falls, then the loss of the segmentation."""
    model, (images, others) = made(resnet_file, student_share=0.4, dropout=0.0, lr=0.1), corrupted()
    model.trainer = SimpleNamespace(estimated_stepping_batches=100, global_step=0)  # type: ignore[assignment]
    optimizer, losses, clean = model.configure_optimizers(), [], model.describe(images)
    for step in range(100):
        model.train().trainer.global_step = step  # type: ignore[misc]
        optimizer.zero_grad()
        loss = model.training_loss(images, clean, others)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[39] < 0.6 * losses[0] and losses[99] < 0.3 * losses[40]


# The map.


def test_the_map_is_the_probability_and_the_score_the_mean_of_its_highest_100(model: DeSTSeg) -> None:
    pixels = torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8)
    with torch.no_grad():
        found = model.compare(pixels / 255, model.describe(pixels / 255))
        prediction = model(pixels)
    assert prediction.anomaly_map is not None and prediction.score is not None
    likely = 1 / (1 + np.exp(-found.logits.double().numpy()))
    detected = model.detect(found).anomaly_map
    assert detected is not None
    np.testing.assert_allclose(detected.numpy(), likely, rtol=1e-5)
    highest = np.sort(prediction.anomaly_map.numpy().reshape(2, -1))[:, -100:]
    np.testing.assert_allclose(prediction.score.numpy(), highest.mean(axis=1), rtol=1e-5)


def test_inputs_and_settings_that_do_not_fit_destseg_are_refused(
    model: DeSTSeg, resnet_file: Path, vit_file: Path
) -> None:
    images, others = corrupted(1)
    with pytest.raises(UserError, match=r"made-up defects: set data.corrupt to lit_ad.data.Perlin"):
        model.training_loss(images, [], Others())
    with pytest.raises(UserError, match=r"set data.batch_size to 2 or more, and data.loading.drop_last"):
        model.training_loss(images, [], others)
    with pytest.raises(UserError, match=r"DeSTSeg, whose student .* of a CNN or more"):
        DeSTSeg("deit_tiny_patch16_224", (3, 7), str(vit_file))
    with pytest.raises(UserError, match=r"taps \[1, 2, 4, 5\] do not fit resnet10t"):
        DeSTSeg("resnet10t", (1, 2, 4), str(resnet_file))
    with pytest.raises(UserError, match="an embedding of stride 32"):
        model(torch.zeros(1, 3, 48, 64, dtype=torch.uint8))
