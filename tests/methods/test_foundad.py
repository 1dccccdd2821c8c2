"""These tests compare projector, loss and score of FoundAD with NumPy, and check which images each step trains on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import timm
import torch
from scipy.special import erf
from timm.layers import Mlp
from timm.models.vision_transformer import Attention, Block
from torch import Tensor, nn

from lit_ad.batch import Others
from lit_ad.data import AnomalyDataModule, CutPaste, Loading, MVTec
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods.foundad import HEADS, Disagreement, FoundAD, Projector
from lit_ad.training import Calibration

BACKBONE = "deit_tiny_patch16_224"
Weights = dict[str, np.ndarray]


def made(vit_file: Path, **arguments: Any) -> FoundAD:
    torch.manual_seed(0)
    return FoundAD(BACKBONE, weights=str(vit_file), view=View(64), **{"width": 48, "depth": 2, **arguments})


@pytest.fixture
def model(vit_file: Path) -> FoundAD:
    return made(vit_file).eval()


# The projector.


def linear(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    """Apply a linear layer: (B, N, in) -> (B, N, out)."""
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    """Apply a layer norm: (B, N, W) -> the same shape."""
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
    return np.asarray(scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"])


def attend(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    """Apply attention head by head: (B, N, W) -> the same shape."""
    queries, keys, values = np.split(linear(x, weights, f"{name}.qkv"), 3, axis=-1)
    side, heads = x.shape[-1] // HEADS, []
    for first in range(0, x.shape[-1], side):
        q, k, v = (part[..., first : first + side] for part in (queries, keys, values))
        odds = np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(side))
        heads.append(odds / odds.sum(axis=-1, keepdims=True) @ v)
    return linear(np.concatenate(heads, axis=-1), weights, f"{name}.proj")


def project(level: np.ndarray, weights: Weights, depth: int) -> np.ndarray:
    """Apply the projector: (B, D, h, w) -> the same shape."""
    batch, channels, height, width = level.shape
    embedded = linear(level.reshape(batch, channels, -1).transpose(0, 2, 1), weights, "embedding")
    x = embedded
    for i in range(depth):
        x = x + attend(norm(x, weights, f"blocks.{i}.norm1"), weights, f"blocks.{i}.attn")
        hidden = linear(norm(x, weights, f"blocks.{i}.norm2"), weights, f"blocks.{i}.mlp.fc1")
        x = x + linear(hidden * (1 + erf(hidden / np.sqrt(2))) / 2, weights, f"blocks.{i}.mlp.fc2")
        x = x + embedded
    result = linear(norm(x, weights, "norm"), weights, "head")
    return result.transpose(0, 2, 1).reshape(batch, channels, height, width)


def test_the_projector_equals_the_formula() -> None:
    torch.manual_seed(0)
    projector = Projector(20, 36, 3, dropout=0.2).double().eval()
    for parameter in projector.parameters():  # biases and norms then differ from their start, and attention is not even
        nn.init.normal_(parameter, std=0.5)
    level = torch.randn(2, 20, 3, 5, dtype=torch.float64)
    weights = {name: value.numpy() for name, value in projector.state_dict().items()}
    with torch.no_grad():
        found = projector(level).numpy()
    np.testing.assert_allclose(found, project(level.numpy(), weights, 3), rtol=1e-9, atol=1e-9)


def test_the_projector_has_the_layers_and_initial_weights_of_the_paper(vit_file: Path) -> None:
    torch.manual_seed(0)
    projector = FoundAD(BACKBONE, weights=str(vit_file), view=View(64)).projector
    assert (projector.embedding.in_features, projector.embedding.out_features) == (192, 384)
    assert (projector.head.in_features, projector.head.out_features) == (384, 192)
    blocks = [block for block in projector.blocks if isinstance(block, Block)]
    attentions = [block.attn for block in blocks if isinstance(block.attn, Attention)]
    assert [attention.num_heads for attention in attentions] == [12] * 6
    assert [block.mlp.fc1.out_features for block in blocks if isinstance(block.mlp, Mlp)] == [4 * 384] * 6
    layers = [module for module in projector.modules() if isinstance(module, nn.Linear)]
    assert len(layers) == 2 + 6 * 4
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02) and not layer.bias.any()
        assert layer.weight.abs().max() > 0.07  # the weights are not cut at three deviations
    assert [m.p for m in projector.modules() if isinstance(m, nn.Dropout) and m.p] == [0.2]


# The teacher.


@pytest.mark.parametrize(("tap", "block"), [(-3, 9), (4, 4), (-12, 0)])
def test_the_teacher_gives_the_normed_patch_tokens_of_one_block(
    tap: int, block: int, vit_file: Path, imagenet: Callable[[Tensor], Tensor]
) -> None:
    model, images = made(vit_file, tap=tap), torch.rand(2, 3, 64, 64)
    whole: Any = timm.create_model(BACKBONE, dynamic_img_size=True).eval()
    whole.load_state_dict(torch.load(vit_file))
    with torch.no_grad():
        tokens = whole._pos_embed(whole.patch_embed(imagenet(images)))
        for layer in whole.blocks[: block + 1]:
            tokens = layer(tokens)
        expected = whole.norm(tokens)[:, 1:].transpose(1, 2).reshape(2, 192, 4, 4)
        (found,) = model.describe(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# The loss and the score.


def test_the_loss_the_map_and_the_score_equal_the_formula(model: FoundAD) -> None:
    teacher, student = torch.randn(2, 3, 7, 4, 5, dtype=torch.float64)
    found = Disagreement(teacher, student)
    squares = (teacher.numpy() - student.numpy()) ** 2
    assert model.loss(found).item() == pytest.approx(squares.mean(), rel=1e-12)
    errors = squares.mean(axis=1)
    prediction = model.detect(found)
    assert prediction.anomaly_map is not None and prediction.score is not None
    np.testing.assert_allclose(prediction.anomaly_map[:, 0].numpy(), errors, rtol=1e-12)
    for highest, count in ((10, 10), (6, 6), (99, 20)):
        model.highest = highest
        score = model.detect(found).score
        assert score is not None
        expected = [np.mean(sorted(image.ravel())[-count:]) for image in errors]
        np.testing.assert_allclose(score.numpy(), expected, rtol=1e-12)


def test_the_map_is_enlarged_and_the_score_is_computed_from_patches(model: FoundAD) -> None:
    pixels = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        patches = model.detect(model.compare(pixels / 255, model.describe(pixels / 255)))
        prediction = model(pixels)
    assert patches.anomaly_map is not None and patches.anomaly_map.shape == (2, 1, 4, 6)
    assert prediction.anomaly_map is not None and prediction.anomaly_map.shape == (2, 1, 64, 96)
    torch.testing.assert_close(prediction.score, patches.score)
    # Up to half a patch from the edge, the map has the value of the corner.
    torch.testing.assert_close(prediction.anomaly_map[..., 0, 0], patches.anomaly_map[..., 0, 0])


# Which images each step trains on.


@pytest.mark.parametrize("clean_share", [0.0, 1.0])
def test_the_target_is_always_the_clean_image(clean_share: float, vit_file: Path) -> None:
    model = made(vit_file, clean_share=clean_share).eval()
    images, corrupted = torch.rand(2, 3, 3, 64, 64)
    with torch.no_grad():
        clean = model.describe(images)
        shown = clean if clean_share else model.describe(corrupted)
        weights = {name: value.numpy() for name, value in model.projector.state_dict().items()}
        expected = np.mean((clean[0].numpy() - project(shown[0].numpy(), weights, 2)) ** 2)
        found = model.training_loss(images, clean, Others(corrupted=corrupted)).item()
    assert found == pytest.approx(expected, rel=1e-4)


def test_half_of_the_steps_see_the_clean_batch(model: FoundAD) -> None:
    images, corrupted = torch.rand(2, 1, 3, 64, 64)
    clean, ran = model.describe(images), []
    hook = model.teacher.register_forward_hook(lambda *_: ran.append(1))
    torch.manual_seed(0)
    with torch.no_grad():
        losses = {model.training_loss(images, clean, Others(corrupted=corrupted)).item() for _ in range(60)}
    hook.remove()
    assert len(losses) == 2 and 18 < len(ran) < 42


def test_the_optimizer_is_adamw_over_all_trained_parameters(model: FoundAD) -> None:
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.AdamW)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (1e-3, 1e-4)
    assert len(group["params"]) == sum(parameter.requires_grad for parameter in model.parameters())


class Losses(L.Callback):
    """Record the loss of the held-out images after each epoch."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.values.append(trainer.callback_metrics["val/loss"].item())


def test_training_lowers_the_loss_and_leaves_the_teacher_unchanged(
    vit_file: Path, images: Path, tmp_path: Path, quiet_trainer: Any
) -> None:
    model = made(vit_file)
    before = [parameter.clone() for parameter in model.teacher.parameters()]
    data = AnomalyDataModule(MVTec(images), model.view, 4, corrupt=CutPaste(), loading=Loading(num_workers=0))
    losses = Losses()
    quiet_trainer(tmp_path, Calibration(0.4), losses, max_epochs=25).fit(model, data)
    assert losses.values[-1] < 0.5 * losses.values[0]
    assert all(map(torch.equal, before, model.teacher.parameters()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 50}, "model.width must be a multiple of 12"),
        ({"width": 0}, "model.width must be a multiple of 12"),
        ({"depth": 0}, "model.depth"),
        ({"highest": 0}, "model.highest"),
        ({"clean_share": 1.5}, "model.clean_share"),
        ({"tap": -13}, r"taps \[-1\] do not fit"),
        ({"tap": 12}, r"taps \[12\] do not fit"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str, vit_file: Path) -> None:
    with pytest.raises(UserError, match=message):
        made(vit_file, **arguments)


def test_training_without_made_up_defects_or_without_a_vit_is_refused(model: FoundAD, resnet_file: Path) -> None:
    images: Tensor = torch.rand(1, 3, 64, 64)
    with pytest.raises(UserError, match=r"made-up defects: set data.corrupt to lit_ad.data.CutPaste"):
        model.training_loss(images, model.describe(images), Others())
    with pytest.raises(UserError, match="FoundAD needs a ViT, but resnet10t is not one"):
        FoundAD("resnet10t", weights=str(resnet_file))
