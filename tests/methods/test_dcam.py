"""These tests compare DCAM with its formulas, computed by hand. Attention is active in training alone."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from lit_ad.image.view import View
from lit_ad.methods.dcam import DCAM, ChannelAttention, measure_channel_entropy
from lit_ad.methods.stfpm import STFPM
from tests.judging import map_of


@pytest.fixture
def model(resnet_file: Path) -> DCAM:
    torch.manual_seed(0)
    return DCAM("resnet10t", (1, 2), str(resnet_file), View(64), temperature=0.5, entropy=0.02).eval()


def images() -> torch.Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_channel_entropy_equals_the_formula() -> None:
    generator = np.random.default_rng(0)
    teacher, student = (generator.normal(size=(2, 5, 3, 4)) for _ in range(2))
    expected = 0.0
    for image in range(2):
        for channel in range(5):
            p, q = (softmax(level[image, channel].ravel() / 0.5) for level in (teacher, student))
            expected += rel_entr(p, q).sum() / 2
    found = measure_channel_entropy(torch.from_numpy(teacher), torch.from_numpy(student), 0.5)
    assert found.item() == pytest.approx(expected, rel=1e-9)
    assert measure_channel_entropy(torch.from_numpy(teacher), torch.from_numpy(teacher), 0.5).item() == pytest.approx(
        0, abs=1e-12
    )


def levels_of(model: DCAM, seen: torch.Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return teacher and student of each level: L x 2 x (B, C, h, w)."""
    pairs = zip(model.teacher(seen), model.student(seen), strict=True)
    return [(t.double().numpy(), s.detach().double().numpy()) for t, s in pairs]


def measure_cosine_distance(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    """Compute the distance over channels: 2 x (B, C, h, w) -> (B, h, w)."""
    norms = np.linalg.norm(teacher, axis=1) * np.linalg.norm(student, axis=1)
    return np.asarray(1 - (teacher * student).sum(axis=1) / norms)


def test_the_loss_equals_the_formula(model: DCAM) -> None:
    expected = 0.0
    for teacher, student in levels_of(model, images()):
        expected += measure_cosine_distance(teacher, student).mean()
        for t, s in zip(teacher.reshape(-1, *teacher.shape[2:]), student.reshape(-1, *student.shape[2:]), strict=True):
            expected += 0.02 * rel_entr(softmax(t / 0.5), softmax(s / 0.5)).sum() / len(images())
    loss = model.loss(model.compare(images(), model.describe(images())))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_channel_attention_equals_the_formula() -> None:
    torch.manual_seed(0)
    attention, level = ChannelAttention(16), torch.rand(2, 16, 3, 4)
    first, _, second = attention.shared
    # The hidden layer has an eighth of the channels.
    assert first.weight.shape == (2, 16) and first.bias is second.bias is None
    squeeze, expand = first.weight.detach().numpy(), second.weight.detach().numpy()

    def shared(pooled: np.ndarray) -> np.ndarray:
        return np.maximum(pooled @ squeeze.T, 0) @ expand.T

    values = level.numpy()
    weights = 1 / (1 + np.exp(-shared(values.mean(axis=(2, 3))) - shared(values.max(axis=(2, 3)))))
    assert attention(level).detach().numpy() == pytest.approx(values * weights[..., None, None], rel=1e-5)


def test_attention_changes_the_student_in_training_alone(model: DCAM) -> None:
    features = model.describe(images())
    before = model.predict(images()).anomaly_map
    for parameter in model.attention.parameters():
        parameter.data.fill_(0.02)
    torch.testing.assert_close(model.predict(images()).anomaly_map, before)
    model.train()
    (_, attended), _ = model.compare(images(), features)
    model.attention.requires_grad_(False)
    plain = model.student(images())[0]
    assert not torch.allclose(attended, plain)
    torch.testing.assert_close(attended, model.attention[0](plain))
    model.attention.requires_grad_(True)
    model.loss(model.compare(images(), features)).backward()
    assert all(parameter.grad is not None for parameter in model.attention.parameters())


def test_the_exported_graph_has_no_attention(model: DCAM, resnet_file: Path) -> None:
    """The graph holds the weights of teacher and student, like the graph of an STFPM, and no weights of attention."""
    pixels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)

    class Graph(torch.nn.Module):
        def __init__(self, method: torch.nn.Module) -> None:
            super().__init__()
            self.method = method

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            score: torch.Tensor = self.method(pixels).score
            return score

    names = []
    for method in (model, STFPM("resnet10t", (1, 2), str(resnet_file), View(64)).eval()):
        program = torch.export.export(Graph(method.requires_grad_(False)), (pixels,))
        names.append({node.target for node in program.graph.nodes if node.op == "call_function"})
        used = [spec.target for spec in program.graph_signature.input_specs if spec.target]
        placeholders = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
        wanted = [
            spec.target for spec in program.graph_signature.input_specs if spec.target and spec.arg.name in placeholders
        ]
        assert used and wanted and not any("attention" in name for name in wanted)
    assert torch.ops.aten.sigmoid.default not in names[0]


def test_the_map_is_the_sum_of_levels_and_the_score_is_its_maximum(model: DCAM) -> None:
    pixels = (255 * images()).to(torch.uint8)
    with torch.no_grad():
        small, prediction = map_of(model.predict(pixels / 255)), model(pixels)
    fine, coarse = (measure_cosine_distance(t, s) for t, s in levels_of(model, pixels / 255))
    sums = [one + cv2.resize(other, (16, 16)) for one, other in zip(fine, coarse, strict=True)]
    np.testing.assert_allclose(small[:, 0].numpy(), sums, rtol=1e-5)
    highest = [cv2.resize(one, (64, 64)).max() for one in sums]
    np.testing.assert_allclose(prediction.score.numpy(), highest, rtol=1e-5)


def test_student_and_attention_are_optimised(model: DCAM) -> None:
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.SGD)
    assert [optimizer.defaults[name] for name in ("lr", "momentum", "weight_decay")] == [0.1, 0.9, 1e-4]
    optimised = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for n, p in model.named_parameters() if n.split(".")[0] in ("student", "attention")}
