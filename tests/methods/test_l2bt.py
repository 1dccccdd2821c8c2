"""These tests compare L2BT with the paper's formulas and with numbers of kornia and scikit-learn."""

import copy
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from kornia.filters import box_blur
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor

from lit_ad.errors import UserError
from lit_ad.methods.l2bt import L2BT, apply_box_filter, blur


@pytest.fixture
def model(vit_file: Path) -> L2BT:
    torch.manual_seed(0)
    return L2BT("deit_tiny_patch16_224", (1, 3), str(vit_file)).eval()


def by_hand(model: L2BT, normalised: Tensor) -> list[np.ndarray]:
    """Return the early and late tokens of timm's own blocks, and the outputs of the students: 4 x (B, N, D)."""
    vit = copy.deepcopy(model.teacher.model)
    with torch.no_grad():
        x = vit._pos_embed(vit.patch_embed(normalised))
        found = []
        for i, block in enumerate(vit.blocks):
            x = block(x)
            if i in (1, 3):
                found.append(vit.norm(x)[:, 1:])  # the final norm; no class token
        return [t.numpy() for t in (*found, model.forward_student(found[0]), model.backward_student(found[1]))]


def test_the_loss_is_one_minus_the_cosine_of_each_token(model: L2BT, imagenet: Callable[[Tensor], Tensor]) -> None:
    images = torch.rand(2, 3, 48, 64)
    early, late, forward, backward = by_hand(model, imagenet(images))
    expected = 0.0
    for student, teacher in ((forward, late), (backward, early)):
        cosines = [np.diag(cosine_similarity(s, t)) for s, t in zip(student, teacher, strict=True)]
        expected += 1 - float(np.mean(cosines))
    assert model.loss(model.compare(None, model.teacher(images))).item() == pytest.approx(expected, rel=1e-5)


def test_the_map_is_the_blurred_product_of_distances(model: L2BT, imagenet: Callable[[Tensor], Tensor]) -> None:
    pixels = torch.randint(0, 256, (2, 3, 48, 64), dtype=torch.uint8)
    # The size differs from the ViT's 224, so position embeddings are interpolated.
    early, late, forward, backward = by_hand(model, imagenet(pixels / 255))

    def unit(x: np.ndarray) -> np.ndarray:
        return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))

    distances = np.linalg.norm(unit(forward) - unit(late), axis=-1) * np.linalg.norm(
        unit(backward) - unit(early), axis=-1
    )
    expected = torch.from_numpy(distances).reshape(2, 1, 3, 4)  # row by row
    expected = torch.nn.Upsample(size=(48, 64), mode="bilinear")(expected)
    for side in [5] * 5 + [7] * 3:
        expected = box_blur(expected, (side, side), "reflect", separable=False)
    prediction = model(pixels)
    assert prediction.anomaly_map.shape == (2, 1, 48, 64)
    torch.testing.assert_close(prediction.anomaly_map, expected, rtol=1e-4, atol=1e-5)
    highest = np.sort(expected.numpy().reshape(2, -1))[:, -3:]  # 0.1 % of 3072
    np.testing.assert_allclose(prediction.score.detach().numpy(), highest.mean(axis=1), rtol=1e-4)


def test_the_score_of_a_small_map_is_its_maximum(model: L2BT) -> None:
    anomaly_map = torch.rand(3, 1, 10, 10)
    assert torch.equal(model.score(anomaly_map), anomaly_map.amax(dim=(1, 2, 3)))


def test_the_box_blur_equals_kornias() -> None:
    anomaly_map = torch.rand(2, 1, 20, 30)
    torch.testing.assert_close(apply_box_filter(anomaly_map, 7), box_blur(anomaly_map, (7, 7), "reflect"))
    with torch.autocast("cpu", torch.bfloat16):
        assert blur(anomaly_map.bfloat16()).dtype == torch.float32


def test_a_student_maps_each_token_alone(model: L2BT) -> None:
    features = model.teacher(torch.rand(1, 3, 32, 48))
    changed = [level.clone() for level in features]
    for level in changed:
        level[0, :, 1, 2] += torch.randn(192)
    before, after = (model.forward_student(level.flatten(2).transpose(1, 2)) for level in (features[0], changed[0]))
    assert ((before - after).abs().amax(dim=2) > 0)[0].tolist() == [False] * 5 + [True]


def test_only_the_students_are_optimised(model: L2BT) -> None:
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam) and optimizer.defaults["lr"] == 1e-3
    optimised = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for name, p in model.named_parameters() if "student" in name}
    assert sum(isinstance(m, torch.nn.Linear) for m in model.forward_student) == 3


def test_training_lowers_the_loss(model: L2BT) -> None:
    features = model.teacher(torch.rand(2, 3, 64, 64))
    optimizer = model.configure_optimizers()
    losses = []
    for _ in range(20):
        losses.append(model.loss(model.compare(None, features)))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_wrong_taps_fractions_and_backbones_are_refused(resnet_file: Path, vit_file: Path) -> None:
    for taps in ((7,), (11, 7), (7, 7)):
        with pytest.raises(UserError, match=rf"an early and then a late one, not {re.escape(str(list(taps)))}"):
            L2BT("deit_tiny_patch16_224", taps, str(vit_file))
    with pytest.raises(UserError, match=r"fraction of the map's pixels"):
        L2BT("deit_tiny_patch16_224", (7, 11), str(vit_file), top=0)
    with pytest.raises(UserError, match=r"L2BT needs a ViT.* resnet10t is not one"):
        L2BT("resnet10t", (1, 2), str(resnet_file))
