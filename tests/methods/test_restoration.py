"""These tests compare the teacher's groups, the map and the optimizer with the papers' formulas in NumPy and SciPy."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from scipy.ndimage import convolve
from torch import Tensor, nn

from lit_ad.errors import UserError
from lit_ad.image.view import View, original_map
from lit_ad.methods import Dinomaly, INPFormer
from lit_ad.methods.restoration import (
    GroupedPatches,
    GroupedTokens,
    choose_middle_blocks,
    compute_restoration_loss,
    group_outputs,
    make_mlp,
    make_restoration_map,
    make_stable_adamw,
    schedule,
    warm_up_and_fall,
    weigh_gradients,
)


def one_minus_cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute the distance over the last axis."""
    return np.asarray(1 - (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1))


def random_groups(size: tuple[int, int], batch: int = 2, width: int = 8) -> tuple[list[Tensor], list[Tensor]]:
    """Make random teachers and students for patches of 16 pixels."""
    count = size[0] * size[1] // 16**2
    teachers, students = ([torch.randn(batch, count, width) for _ in range(2)] for _ in range(2))
    return teachers, students


# The teacher.


def test_the_teacher_gives_the_means_of_its_middle_blocks(imagenet: Callable[[Tensor], Tensor], vit_file: Path) -> None:
    vit: Any = timm.create_model("deit_tiny_patch16_224", dynamic_img_size=True).eval()
    vit.load_state_dict(torch.load(vit_file, weights_only=True))
    images = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        tokens, after = vit._pos_embed(vit.patch_embed(imagenet(images))), []
        for block in vit.blocks:
            tokens = block(tokens)
            after.append(tokens)
    teacher = GroupedTokens("deit_tiny_patch16_224", None, str(vit_file))
    early, late = teacher(images)
    assert early.shape == (2, 1 + 2 * 3, 192)  # the class token comes first; there is no final norm
    torch.testing.assert_close(early, (after[2] + after[3] + after[4] + after[5]) / 4)
    torch.testing.assert_close(late, (after[6] + after[7] + after[8] + after[9]) / 4)
    assert len(teacher.model.blocks) == 10  # blocks that are not needed do not run
    with pytest.raises(UserError, match="patches of 16 pixels"):
        teacher(torch.rand(1, 3, 40, 32))
    assert (teacher.width, teacher.heads, teacher.depth) == (192, 3, 12)
    patches = GroupedPatches("deit_tiny_patch16_224", None, str(vit_file))
    for level, without in zip((early, late), patches(images), strict=True):
        assert torch.equal(without, level[:, 1:]) and without.is_contiguous()
    assert patches.identity != teacher.identity  # the cache therefore keeps their features apart


def test_the_middle_blocks_follow_from_the_depth() -> None:
    assert choose_middle_blocks(12) == (2, 3, 4, 5, 6, 7, 8, 9)
    assert choose_middle_blocks(24) == (4, 6, 8, 10, 12, 14, 16, 18)


def test_a_cnn_and_wrong_blocks_are_refused(resnet_file: Path, vit_file: Path) -> None:
    for method in (Dinomaly, INPFormer):
        with pytest.raises(UserError, match=r"need a plain ViT.*resnet10t is a ResNet"):
            method("resnet10t", str(resnet_file))
        for blocks in ([3, 4, 5], [4, 3], [3, 3]):
            with pytest.raises(UserError, match=r"model\.blocks must be an even number of ascending blocks"):
                method("deit_tiny_patch16_224", str(vit_file), blocks=blocks)


def test_middle_blocks_of_dinov3_without_recentring_give_a_warning(vit_file: Path, tmp_path: Path) -> None:
    name, file = "vit_tiny_patch16_dinov3_qkvb", tmp_path / "dinov3.pt"
    torch.save(timm.create_model(name).state_dict(), file)
    with pytest.warns(UserWarning, match=r"is known to fail.*set model\.recentre true, or take.*\[8, 9, 10, 11\]"):
        model = Dinomaly(name, str(file), View(64))
    prediction = model(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert prediction.anomaly_map is not None and prediction.anomaly_map.shape == (1, 1, 64, 64)
    with pytest.warns(UserWarning, match=r"is known to fail with DINOv3's middle blocks: take late blocks"):
        other = INPFormer(name, str(file), View(64))
    assert [level.shape for level in other.describe(torch.rand(1, 3, 64, 64))] == [(1, 16, 192)] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Dinomaly(name, str(file), View(64), recentre=True)
        for method in (Dinomaly, INPFormer):
            method(name, str(file), View(64), blocks=[8, 9, 10, 11])
            method("deit_tiny_patch16_224", str(vit_file), View(64))


# The restoration.


def test_the_last_decoder_blocks_restore_the_first_group() -> None:
    outputs = [torch.full((1, 2, 3), float(block)) for block in range(8)]
    early, late = group_outputs(outputs)
    assert (early == (4 + 5 + 6 + 7) / 4).all() and (late == (0 + 1 + 2 + 3) / 4).all()


def test_the_mlp_equals_the_formula() -> None:
    tokens, dropped = torch.randn(2, 5, 6), make_mlp(4, 0.3, source=6)
    first, second = (layer for layer in dropped if isinstance(layer, nn.Linear))
    hidden = tokens.double() @ first.weight.double().T + first.bias
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2  # GELU
    expected = (hidden @ second.weight.double().T + second.bias).float()
    torch.testing.assert_close(dropped.eval()(tokens), expected)
    assert [layer.p for layer in dropped if isinstance(layer, nn.Dropout)] == [0.3] * 3
    assert [m.in_features for m in make_mlp(4) if isinstance(m, nn.Linear)] == [4, 16]


def test_the_restoration_loss_equals_the_formula() -> None:
    teachers, students = random_groups((32, 48))
    expected = [
        one_minus_cosine(t.double().numpy().reshape(2, -1), s.double().numpy().reshape(2, -1)).mean()
        for t, s in zip(teachers, students, strict=True)
    ]
    assert compute_restoration_loss(teachers, students).item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_weights_change_the_gradient_alone() -> None:
    leaf, weights = torch.randn(2, 3, 4, requires_grad=True), torch.rand(2, 3)
    student = leaf * 1
    weigh_gradients(student, weights)
    assert torch.equal(student, leaf)
    (student**2).sum().backward()
    torch.testing.assert_close(leaf.grad, 2 * leaf.detach() * weights[..., None])


@pytest.mark.parametrize("size", [(64, 64), (48, 96)])
def test_the_restoration_map_equals_the_formula(size: tuple[int, int]) -> None:
    teachers, students = random_groups(size)
    rows, columns = size[0] // 16, size[1] // 16
    fine = np.zeros((2, *size))
    for teacher, student in zip(teachers, students, strict=True):
        patches = one_minus_cosine(teacher.double().numpy(), student.double().numpy()).reshape(2, rows, columns)
        ys, xs = np.linspace(0, rows - 1, size[0]), np.linspace(0, columns - 1, size[1])  # corners stay corners
        wide = np.array([[np.interp(xs, range(columns), row) for row in one] for one in patches])
        tall = np.array([[np.interp(ys, range(rows), column) for column in one.T] for one in wide])
        fine += tall.transpose(0, 2, 1) / 2
    shape = (256, 256 * size[1] // size[0])
    # This resize aligns the centres of pixels.
    ys, xs = ((np.arange(n) + 0.5) * have / n - 0.5 for n, have in zip(shape, size, strict=True))
    wide = np.array([[np.interp(xs, range(size[1]), row) for row in one] for one in fine])
    tall = np.array([[np.interp(ys, range(size[0]), column) for column in one.T] for one in wide]).transpose(0, 2, 1)
    taps = np.exp(-(np.arange(-2, 3) ** 2) / 32)
    expected = np.array([convolve(one, np.outer(taps, taps) / taps.sum() ** 2, mode="constant") for one in tall])
    np.testing.assert_allclose(
        make_restoration_map(teachers, students, size, 16)[:, 0].numpy(), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("size", [(64, 64), (48, 112), (160, 80), (224, 224)])
def test_every_patch_that_is_not_restored_is_found_at_its_place(size: tuple[int, int]) -> None:
    """The maximum of the map, at the size of the image, lies inside the one patch that is not restored."""
    rows, columns = size[0] // 16, size[1] // 16
    same = torch.randn(1, 1, 8).expand(rows * columns, rows * columns, 8)
    students = same.clone()
    students[range(rows * columns), range(rows * columns)] *= -1  # each image of the batch has another such patch
    maps = make_restoration_map([same, same], [students, students], size, 16)[:, 0].numpy()
    for i, one in enumerate(maps):
        whole = original_map(one, size, (0, 0, *size), (3 * size[0], 3 * size[1]))
        y, x = np.unravel_index(whole.argmax(), whole.shape)
        assert (int(y) // 48, int(x) // 48) == (i // columns, i % columns)


# The training.


def test_the_schedule_rises_in_the_warm_up_and_then_falls_like_a_cosine() -> None:
    def rate(step: int) -> float:
        return 2e-3 * schedule(step, 10_000, 100, 0.1)

    assert [rate(step) for step in (0, 50, 100)] == pytest.approx([0, 1e-3, 2e-3])
    assert rate(5050) == pytest.approx((2e-3 + 2e-4) / 2)  # half way down
    assert rate(2575) == pytest.approx(2e-4 + 0.5 * 1.8e-3 * (1 + math.cos(math.pi / 4)))
    assert [rate(step) for step in (10_000, 12_000)] == pytest.approx([2e-4] * 2)
    assert schedule(0, 10, 0, 0.1) == 1  # without a warm-up


def test_every_parameter_group_follows_the_schedule() -> None:
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    groups: list[dict[str, Any]] = [{"params": [first]}, {"params": [second], "lr": 0.1}]
    optimizer = make_stable_adamw(groups, 1.0, 1e-8, 0.0, amsgrad=False)
    assert [group["amsgrad"] for group in optimizer.param_groups] == [False, False]
    settings = warm_up_and_fall(optimizer, steps=6, warmup=2, final=0.5)["lr_scheduler"]
    assert settings["interval"] == "step"
    for step in range(8):
        part = schedule(step, 6, 2, 0.5)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([part, 0.1 * part])
        optimizer.step()
        settings["scheduler"].step()


def test_the_steps_of_the_optimizer_equal_the_formula() -> None:
    lr, beta1, beta2, eps, decay = 0.01, 0.9, 0.999, 1e-3, 0.1
    generator = np.random.default_rng(0)
    expected = [generator.normal(size=shape) for shape in ((3, 4), (5,))]
    tensors = [nn.Parameter(torch.tensor(value)) for value in expected]
    optimizer = make_stable_adamw(tensors, lr, eps, decay)
    mean, square, largest = ([np.zeros_like(x) for x in expected] for _ in range(3))
    cut = []
    for t, scale in enumerate(
        (1.0, 1e-3, 50.0, 0.1, 10.0), start=1
    ):  # the third is sudden; then the second moment falls
        for i, tensor in enumerate(tensors):
            gradient = scale * generator.normal(size=tensor.shape)
            tensor.grad = torch.tensor(gradient)
            mean[i] = beta1 * mean[i] + (1 - beta1) * gradient
            square[i] = beta2 * square[i] + (1 - beta2) * gradient**2
            largest[i] = np.maximum(largest[i], square[i])
            denominator = np.sqrt(largest[i] / (1 - beta2**t)) + eps
            rms = np.sqrt(np.mean((gradient / denominator) ** 2))
            cut.append(rms > 1)
            expected[i] = expected[i] - lr * decay * expected[i]
            expected[i] -= lr / max(1, rms) * mean[i] / (1 - beta1**t) / denominator
        optimizer.step()
    assert any(cut) and not all(cut)
    for tensor, value in zip(tensors, expected, strict=True):
        np.testing.assert_allclose(tensor.detach().numpy(), value, rtol=1e-12)
