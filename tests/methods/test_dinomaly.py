"""These tests compare Dinomaly with the paper's formulas in NumPy and SciPy, and plant patches that the map must
show."""

import copy
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import timm
import torch
from torch import nn

from lit_ad.batch import Others
from lit_ad.data import AnomalyDataModule, Loading, MVTec
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods.dinomaly import DecoderBlock, Dinomaly, Disagreement, LinearAttention, weigh_patches
from tests.methods.restoration_checks import check_planted_noise_is_found, check_schedule_and_clipping


def made(vit_file: Path, view: View = View(64), **more: Any) -> Dinomaly:
    torch.manual_seed(0)
    return Dinomaly("deit_tiny_patch16_224", str(vit_file), view, **more).eval()


@pytest.fixture(scope="module")
def model(vit_file: Path) -> Dinomaly:
    return made(vit_file)


def one_minus_cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute the distance over the last axis."""
    return np.asarray(1 - (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1))


def random_disagreement(size: tuple[int, int], batch: int = 2, width: int = 8) -> Disagreement:
    count = size[0] * size[1] // 16**2
    teachers, students = ([torch.randn(batch, count, width) for _ in range(2)] for _ in range(2))
    return Disagreement(teachers, students, size)


# The students.


def test_linear_attention_equals_the_formula() -> None:
    torch.manual_seed(0)
    attention, tokens = LinearAttention(6, 2), torch.randn(2, 5, 6)

    def phi(x: np.ndarray) -> np.ndarray:
        return np.where(x > 0, x + 1, np.exp(x))

    q, k, v = np.split(attention.qkv(tokens).detach().double().numpy(), 3, axis=2)  # (B, N, D) each
    heads = []
    for head in (slice(0, 3), slice(3, 6)):
        similar = phi(q[..., head]) @ phi(k[..., head]).transpose(0, 2, 1)  # (B, N, N)
        heads.append(similar @ v[..., head] / (similar.sum(axis=2, keepdims=True) + 1e-6))
    weight, bias = (p.detach().double().numpy() for p in attention.projection.parameters())
    expected = np.concatenate(heads, axis=2) @ weight.T + bias
    np.testing.assert_allclose(attention(tokens).detach().numpy(), expected, rtol=1e-4, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert attention(tokens).dtype == torch.bfloat16


def test_the_last_decoder_blocks_restore_the_first_teacher_blocks(model: Dinomaly) -> None:
    images = torch.rand(2, 3, 32, 48)
    early, late = features = model.teacher(images)
    with torch.no_grad():
        tokens, after = model.bottleneck(0.5 * early + 0.5 * late), []  # eval mode has no noise
        for block in model.decoder:
            assert isinstance(block, DecoderBlock)
            tokens = tokens + block.attention(block.norm1(tokens))
            tokens = tokens + block.mlp(block.norm2(tokens))
            after.append(tokens[:, 1:])
        found = model.compare(images, features)
    assert len(after) == 8
    torch.testing.assert_close(found.students[0], sum(after[4:]) / 4)
    torch.testing.assert_close(found.students[1], sum(after[:4]) / 4)
    torch.testing.assert_close(found.teachers, [early[:, 1:], late[:, 1:]])
    assert (found.size, model.compare(None, features).size) == ((32, 48), None)  # no pixels are needed
    with torch.autocast("cpu", torch.bfloat16):
        under = model.compare(images, model.teacher(images))
        assert {t.dtype for t in (*under.teachers, *under.students)} == {torch.float32}


def test_students_have_the_initial_weights_of_the_authors(model: Dinomaly) -> None:
    students = nn.ModuleList([model.bottleneck, model.decoder])
    linear = [m for m in students.modules() if isinstance(m, nn.Linear)]
    assert len(linear) == 2 + 8 * 4
    for layer in linear:
        assert layer.weight.abs().max() <= 0.03 and not layer.bias.any()
        # A deviation of 0.01, cut at three deviations.
        assert layer.weight.std().item() == pytest.approx(0.00987, rel=0.03)
    assert [m.in_features for m in model.bottleneck if isinstance(m, nn.Linear)] == [192, 4 * 192]
    assert {m.eps for m in students.modules() if isinstance(m, nn.LayerNorm)} == {1e-8}
    assert [m.p for m in model.bottleneck if isinstance(m, nn.Dropout)] == [0.2] * 3
    assert not any(m.p for m in model.decoder.modules() if isinstance(m, nn.Dropout))
    assert {block.attention.heads for block in model.decoder if isinstance(block, DecoderBlock)} == {3}


def test_dropout_is_active_in_training_only(model: Dinomaly) -> None:
    tokens = torch.ones(1, 4, 192)
    assert torch.equal(model.bottleneck(tokens), model.bottleneck(tokens))
    noisy = copy.deepcopy(model.bottleneck).train()
    outputs = noisy(tokens.repeat(1, 500, 1))
    assert (outputs == 0).float().mean().item() == pytest.approx(0.2, abs=0.01)


# The loss.


def test_the_loss_is_one_minus_the_cosine_over_all_patches(model: Dinomaly) -> None:
    found = random_disagreement((32, 48))
    expected = [
        one_minus_cosine(t.double().numpy().reshape(2, -1), s.double().numpy().reshape(2, -1)).mean()
        for t, s in zip(found.teachers, found.students, strict=True)
    ]
    assert model.loss(found).item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_recentred_targets_equal_the_formula(vit_file: Path) -> None:
    model = made(vit_file, recentre=True)
    images = torch.rand(2, 3, 32, 48)
    features = model.teacher(images)
    found, plain = model.compare(images, features), made(vit_file).compare(images, features)
    for level, target in zip(features, found.teachers, strict=True):
        tokens = level.double().numpy()
        difference = tokens[:, 1:] - tokens[:, :1]
        centred = difference - difference.mean(axis=2, keepdims=True)
        expected = centred / np.sqrt((centred**2).mean(axis=2, keepdims=True) + 1e-8)
        np.testing.assert_allclose(target.numpy(), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.students, plain.students)  # the students see tokens that are not recentred


def hardest(distances: np.ndarray, share: float) -> np.ndarray:
    """Return whether a patch is among the (1 - share) hardest patches of the batch. At least one patch is."""
    count = max(1, int(distances.size * (1 - share)))
    return np.asarray(distances >= np.sort(distances.ravel())[-count])


@pytest.mark.parametrize(("share", "kept"), [(0.0, 12), (0.45, 6), (0.9, 1), (1.0, 1)])
def test_mining_weights_are_1_for_the_hardest_patches_and_small_for_the_others(share: float, kept: int) -> None:
    distances = torch.rand(2, 6)
    weights = weigh_patches(distances, share, 0.1)
    assert torch.equal(weights, torch.where(torch.from_numpy(hardest(distances.numpy(), share)), 1.0, 0.1))
    assert (weights == 1).sum() == kept


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (500, 0.45), (1000, 0.9), (4000, 0.9)])
def test_gradients_of_easy_patches_are_small(
    model: Dinomaly, monkeypatch: pytest.MonkeyPatch, step: int, share: float
) -> None:
    """The gradient of the decoder's patches must equal central differences of the loss, times the weights computed by
    hand."""
    found = random_disagreement((32, 48), width=4)
    teachers, students = ([x.double() for x in side] for side in (found.teachers, found.students))
    found = Disagreement(teachers, students, found.size)
    leaves = [s.clone().requires_grad_() for s in found.students]
    # A decoder gives patches that are no leaves of the graph, so this test does too.
    monkeypatch.setattr(model, "compare", lambda *_: found._replace(students=[leaf * 1 for leaf in leaves]))
    monkeypatch.setattr(Dinomaly, "global_step", step)
    loss = model.training_loss(torch.empty(0), [], Others())
    assert loss.item() == model.loss(found).item()  # only the gradient changes, the loss does not
    loss.backward()
    for i, leaf in enumerate(leaves):
        weights = np.where(
            hardest(one_minus_cosine(found.teachers[i].numpy(), found.students[i].numpy()), share), 1.0, 0.1
        )
        gradient, moved = np.zeros(leaf.shape), found.students[i]
        for place in np.ndindex(*leaf.shape):
            value, ends = moved[place].item(), []
            for shift in (1e-6, -1e-6):
                moved[place] = value + shift
                ends.append(model.loss(found).item())
            moved[place] = value
            gradient[place] = (ends[0] - ends[1]) / 2e-6
        assert leaf.grad is not None
        np.testing.assert_allclose(leaf.grad.numpy(), gradient * weights[..., None], rtol=1e-5, atol=1e-9)


# The map.


def test_the_score_is_the_mean_of_the_highest_hundredth_of_the_map(model: Dinomaly) -> None:
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    prediction = model(pixels)
    highest = np.sort(prediction.anomaly_map.detach().numpy().reshape(2, -1))[:, -40:]  # a hundredth of 64 x 64 pixels
    np.testing.assert_allclose(prediction.score.detach().numpy(), highest.mean(axis=1), rtol=1e-5)


VIEWS = {"square": View(64), "wide": View((48, 96)), "cropped": View(96, crop=64), "padded": View(96, fit="pad")}


@pytest.mark.parametrize("name", VIEWS)
def test_a_planted_patch_of_noise_is_found_at_its_place(name: str, vit_file: Path) -> None:
    check_planted_noise_is_found(made(vit_file, VIEWS[name], dropout=0.0), steps=40)


# The training.


@pytest.mark.parametrize(("of_trainer", "clip"), [(None, 0.001), (0.0005, 0.0005)])
def test_a_fit_follows_the_schedule_and_clips_gradients(
    of_trainer: float | None, clip: float, vit_file: Path, images: Path, tmp_path: Path
) -> None:
    model = made(vit_file, warmup=2, clip=0.001)
    check_schedule_and_clipping(model, ("bottleneck", "decoder"), 2e-3, of_trainer, clip, images, tmp_path)


def test_the_settings_of_dinomaly2_are_followed(vit_file: Path, images: Path, tmp_path: Path) -> None:
    """The squeezing layer has its own rate, which rises with the other rates and then stays. The training has no end
    and no amsgrad."""
    model = made(vit_file, squeeze=32, lr=2e-3, final_lr=2e-3, warmup=2, amsgrad=False, dropout=0.4)
    layers = [model.squeeze, *model.bottleneck]
    assert [(m.in_features, m.out_features) for m in layers if isinstance(m, nn.Linear)] == [
        *((192, 32), (32, 768), (768, 192)),
    ]
    # [D -> 32, dropout] [32 -> 4 D, GELU, dropout, 4 D -> D, dropout]
    assert [type(m).__name__ for m in layers] == ["Linear", "Dropout", "Linear", "GELU", "Dropout", "Linear", "Dropout"]
    assert {m.p for m in layers if isinstance(m, nn.Dropout)} == {0.4}
    tokens = torch.randn(2, 5, 192)
    first, second, third = (m for m in layers if isinstance(m, nn.Linear))
    assert first.weight.abs().max() <= 0.03 and not first.bias.any()
    expected = third(nn.functional.gelu(second(first(tokens))))
    torch.testing.assert_close(model.bottleneck(model.squeeze(tokens)), expected)
    rates: list[list[float]] = []

    class Rates(L.Callback):
        def on_before_optimizer_step(self, trainer: Any, model: Any, optimizer: Any) -> None:
            rates.append([group["lr"] for group in optimizer.param_groups])

    trainer = L.Trainer(
        default_root_dir=tmp_path,
        max_epochs=-1,
        limit_train_batches=2,
        callbacks=[Rates(), Stop(4)],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, AnomalyDataModule(MVTec(images), model.view, batch_size=4, loading=Loading(num_workers=0)))
    assert rates == [pytest.approx([part * 2e-3, part * 2e-4]) for part in (0, 0.5, 1, 1)]
    others, squeezing = trainer.optimizers[0].param_groups
    assert not others["amsgrad"] and not squeezing["amsgrad"]
    assert {id(p) for p in squeezing["params"]} == {id(p) for p in model.squeeze.parameters()}
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for group in (others, squeezing) for p in group["params"]} == trained
    other = made(vit_file, squeeze=32).squeeze
    assert isinstance(other, nn.Linear) and not torch.equal(first.weight, other.weight)


class Stop(L.Callback):
    """Stop the training after a number of steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.steps


def test_a_training_without_an_end_is_refused_where_the_rate_falls(
    vit_file: Path, images: Path, tmp_path: Path
) -> None:
    model = made(vit_file)
    trainer = L.Trainer(default_root_dir=tmp_path, max_epochs=-1, logger=False, enable_checkpointing=False)
    with pytest.raises(UserError, match=r"set trainer\.max_steps or max_epochs"):
        trainer.fit(model, AnomalyDataModule(MVTec(images), model.view, loading=Loading(num_workers=0)))


def test_recentring_is_refused_for_a_teacher_without_a_class_token(tmp_path: Path) -> None:
    registers = timm.create_model("test_vit2")  # this model has a register token and no class token
    torch.save(registers.state_dict(), tmp_path / "vit.pt")
    assert registers.num_prefix_tokens == 1
    with pytest.raises(UserError, match=r"recentre takes a class token, and test_vit2 has none"):
        Dinomaly("test_vit2", str(tmp_path / "vit.pt"), View(64), blocks=[1, 2], recentre=True)
    prediction = Dinomaly("test_vit2", str(tmp_path / "vit.pt"), View(64), blocks=[1, 2])(
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    )
    assert prediction.anomaly_map.shape == (1, 1, 64, 64)
