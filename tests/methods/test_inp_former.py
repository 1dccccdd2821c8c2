"""These tests compare INP-Former with the paper's formulas in NumPy and its gradients with finite differences, and
plant patches that the map must show."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lit_ad.batch import Others
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods.inp_former import (
    Block,
    CrossAttention,
    Disagreement,
    INPFormer,
    ReLUAttention,
    measure_prototype_distances,
    weigh_by_distance,
)
from lit_ad.methods.restoration import make_restoration_map
from tests.judging import map_of
from tests.methods.restoration_checks import check_planted_noise_is_found, check_schedule_and_clipping

Arrays = dict[str, np.ndarray]


def made(vit_file: Path, view: View = View(64), **more: Any) -> INPFormer:
    torch.manual_seed(0)
    return INPFormer("deit_tiny_patch16_224", str(vit_file), view, **more).eval()


@pytest.fixture(scope="module")
def model(vit_file: Path) -> INPFormer:
    return made(vit_file)


def arrays(module: nn.Module) -> Arrays:
    return {name: value.detach().double().numpy() for name, value in module.state_dict().items()}


def one_minus_cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute the distance over the last axis."""
    return np.asarray(1 - (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1))


# The paper in plain NumPy, one image at a time: (N, D) and (M, D).


def linear(x: np.ndarray, of: Arrays, name: str) -> np.ndarray:
    return x @ of[f"{name}.weight"].T + of[f"{name}.bias"]


def norm(x: np.ndarray, of: Arrays, name: str) -> np.ndarray:
    centred = x - x.mean(axis=1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-8)
    return np.asarray(scaled * of[f"{name}.weight"] + of[f"{name}.bias"])


def gelu(x: np.ndarray) -> np.ndarray:
    return np.asarray(x * np.vectorize(lambda value: 0.5 * (1 + math.erf(value / math.sqrt(2))))(x))


def two_layers(x: np.ndarray, of: Arrays, name: str) -> np.ndarray:
    return linear(gelu(linear(x, of, f"{name}.1")), of, f"{name}.4")


def attend(queries: np.ndarray, others: np.ndarray, of: Arrays, name: str, heads: int, softmax: bool) -> np.ndarray:
    """Compute attention patch by patch and head by head."""
    q, kv = linear(queries, of, f"{name}.query"), linear(others, of, f"{name}.key_value")
    width = q.shape[1]
    k, v, found = kv[:, :width], kv[:, width:], np.zeros_like(q)
    for head in range(heads):
        part = slice(head * width // heads, (head + 1) * width // heads)
        for i, query in enumerate(q[:, part]):
            if softmax:
                weights = np.exp(k[:, part] @ query / math.sqrt(width / heads))
                weights /= weights.sum()
            else:
                cosines = 1 - one_minus_cosine(k[:, part], query)
                weights = np.maximum(of[f"{name}.scale"][head, 0, 0] * cosines, 0)
            found[i, part] = weights @ v[:, part]
    return linear(found, of, f"{name}.projection")


def prototypes_by_hand(patches: np.ndarray, of: Arrays) -> np.ndarray:
    tokens = of["extractor.tokens"]
    queries, others = (norm(x, of, "extractor.block.norm1") for x in (tokens, patches))
    tokens = tokens + attend(queries, others, of, "extractor.block.attention", 3, softmax=True)
    return np.asarray(tokens + two_layers(norm(tokens, of, "extractor.block.norm2"), of, "extractor.block.mlp"))


def decoded_by_hand(patches: np.ndarray, prototypes: np.ndarray, of: Arrays) -> list[np.ndarray]:
    """Compute the output of each of the eight blocks."""
    tokens, outputs = two_layers(patches, of, "bottleneck"), []
    for i in range(8):
        block = f"decoder.{i}"
        queries, others = (norm(x, of, f"{block}.norm1") for x in (tokens, prototypes))
        tokens = attend(queries, others, of, f"{block}.attention", 3, softmax=False)  # the paper has no residual here
        tokens = tokens + two_layers(norm(tokens, of, f"{block}.norm2"), of, f"{block}.mlp")
        outputs.append(tokens)
    return outputs


@pytest.fixture(scope="module")
def moved(vit_file: Path) -> INPFormer:
    """Make a model in float64 whose weights, biases and scales all differ from their start, as after a training."""
    model = made(vit_file).double()
    generator = torch.Generator().manual_seed(1)
    for part in model.students:
        for parameter in part.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def test_prototypes_and_decoder_equal_the_formulas_of_the_paper(moved: INPFormer) -> None:
    early, late = (torch.randn(2, 6, 192, dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        found, of = moved.compare(torch.empty(2, 3, 32, 48), [early, late]), arrays(moved)
    for image in range(2):
        patches = ((early + late) / 2)[image].numpy()
        prototypes = prototypes_by_hand(patches, of)
        with torch.no_grad():
            given = moved.extractor(torch.tensor(patches)[None])[0].numpy()
        np.testing.assert_allclose(given, prototypes, rtol=1e-9, atol=1e-9)
        assert np.array_equal(found.patches[image].numpy(), patches)
        np.testing.assert_allclose(found.prototypes[image].numpy(), prototypes, rtol=1e-9, atol=1e-9)
        outputs = decoded_by_hand(patches, prototypes, of)
        for group, blocks in zip(found.students, (outputs[4:], outputs[:4]), strict=True):  # in reverse order
            np.testing.assert_allclose(group[image].numpy(), np.mean(blocks, axis=0), rtol=1e-8, atol=1e-9)
    assert torch.equal(found.teachers[0], early) and torch.equal(found.teachers[1], late)
    assert (found.size, moved.compare(None, [early, late]).size) == ((32, 48), None)  # no pixels are needed


def test_a_query_opposite_to_all_keys_gets_no_value_with_relu_attention() -> None:
    """With softmax, the query gets a value. With ReLU, the query gets the bias of the projection alone."""
    torch.manual_seed(0)
    tokens, others = torch.randn(1, 5, 6), torch.randn(1, 3, 6)
    for kind in (CrossAttention, ReLUAttention):
        attention = kind(6, 2)
        with torch.no_grad():
            attention.query.weight.zero_()
            attention.key_value.weight[:6].zero_()
            attention.query.bias.fill_(-1)  # every query is the opposite of every key
            attention.key_value.bias.fill_(1)
            result = attention(tokens, others)
        assert torch.equal(result, attention.projection.bias.expand_as(result)) == (kind is ReLUAttention)
    with torch.autocast("cpu", torch.bfloat16):
        assert ReLUAttention(6, 2)(tokens, others).dtype == torch.bfloat16


def test_the_decoder_depends_on_the_prototypes_and_has_no_residual_of_patches(moved: INPFormer) -> None:
    """Where the values of the prototypes are zero, all patches have the same output: no residual adds the patches
    themselves."""
    tokens, block = torch.randn(1, 4, 192, dtype=torch.float64), moved.decoder[0]
    assert isinstance(block, Block)
    value = block.attention.key_value
    with torch.no_grad():
        weight, bias = value.weight.clone(), value.bias.clone()
        value.weight[192:], value.bias[192:] = 0, 0
        nothing = block(tokens, torch.randn(1, 6, 192, dtype=torch.float64))
        value.weight.copy_(weight), value.bias.copy_(bias)
    torch.testing.assert_close(nothing, nothing[:, :1].expand_as(nothing))


def test_features_in_half_precision_are_compared_in_float32(model: INPFormer) -> None:
    images = torch.rand(2, 3, 32, 48)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.compare(images, model.describe(images))
        assert {t.dtype for t in (*found.teachers, *found.students)} == {torch.float32}
        distances = measure_prototype_distances(found.patches.bfloat16(), found.prototypes)
        assert distances.dtype == torch.float32 and distances.shape == (2, 6, 6)
    assert [level.shape for level in model.describe(images)] == [(2, 6, 192)] * 2  # without the class token


def test_students_have_the_initial_weights_of_the_authors(model: INPFormer) -> None:
    students = nn.ModuleList(model.students)
    linear = [m for m in students.modules() if isinstance(m, nn.Linear)]
    assert len(linear) == 2 + 9 * 5
    for layer in linear:
        assert layer.weight.abs().max() <= 0.03 and not layer.bias.any()
    assert {m.eps for m in students.modules() if isinstance(m, nn.LayerNorm)} == {1e-8}
    assert not any(m.p for m in students.modules() if isinstance(m, nn.Dropout))
    tokens = model.extractor.tokens
    assert tokens.shape == (6, 192) and tokens.std().item() == pytest.approx(1, abs=0.05)
    attentions = [block.attention for block in model.decoder if isinstance(block, Block)]
    scales = [attention.scale for attention in attentions if isinstance(attention, ReLUAttention)]
    assert len(scales) == 8 and all(scale.shape == (3, 1, 1) and (scale == 1).all() for scale in scales)
    assert not hasattr(model.extractor.block.attention, "scale")


# The loss.


def random_disagreement(size: tuple[int, int] = (32, 48), batch: int = 2, width: int = 8) -> Disagreement:
    count = size[0] * size[1] // 16**2
    teachers, students = ([torch.randn(batch, count, width, dtype=torch.float64) for _ in range(2)] for _ in range(2))
    patches, prototypes = (torch.randn(batch, number, width, dtype=torch.float64) for number in (count, 3))
    return Disagreement(teachers, students, patches, prototypes, size)


def test_the_loss_equals_the_formula(vit_file: Path) -> None:
    found = random_disagreement()
    pairs = zip(found.teachers, found.students, strict=True)
    restoration = [one_minus_cosine(t.numpy().reshape(2, -1), s.numpy().reshape(2, -1)).mean() for t, s in pairs]
    images = zip(found.patches.numpy(), found.prototypes.numpy(), strict=True)
    nearest = [min(one_minus_cosine(prototypes, patch)) for patches, prototypes in images for patch in patches]
    for gather in (0.2, 0.0, 1.0):
        expected = np.mean(restoration) + gather * np.mean(nearest)
        assert made(vit_file, gather=gather).loss(found).item() == pytest.approx(expected, rel=1e-12)


def test_the_adaptive_weights_equal_the_formula() -> None:
    distances = torch.tensor([[0.1, 0.2, 0.9], [0.4, 0.0, 0.2]])  # their mean is 0.3
    expected = torch.tensor([[1 / 27, 8 / 27, 27.0], [64 / 27, 0.0, 8 / 27]])
    torch.testing.assert_close(weigh_by_distance(distances, 3.0), expected)
    assert torch.equal(weigh_by_distance(distances, 0.0), torch.ones(2, 3))
    # Every patch is restored exactly.
    assert torch.equal(weigh_by_distance(torch.tensor([[-1e-7, 0.0]]), 3.0), torch.zeros(1, 2))


@pytest.mark.parametrize("power", [3.0, 0.0, 1.5])
def test_gradients_of_restored_patches_are_small(vit_file: Path, monkeypatch: pytest.MonkeyPatch, power: float) -> None:
    """The gradient of the decoder's patches must equal central differences of the loss, times the weights computed by
    hand. The gradient of the prototypes has no weights."""
    model, found = made(vit_file, power=power), random_disagreement(width=4)
    leaves = [tensor.clone().requires_grad_() for tensor in (*found.students, found.prototypes)]
    # A decoder gives patches that are no leaves of the graph, so this test does too.
    shown = found._replace(students=[leaf * 1 for leaf in leaves[:2]], prototypes=leaves[2] * 1)
    monkeypatch.setattr(model, "compare", lambda *_: shown)
    loss = model.training_loss(torch.empty(0), [], Others())
    assert loss.item() == model.loss(found).item()  # only the gradient changes, the loss does not
    loss.backward()
    for leaf, moved, teacher in zip(leaves, (*found.students, found.prototypes), (*found.teachers, None), strict=True):
        gradient, weights = np.zeros(leaf.shape), np.ones(leaf.shape[:2])
        if teacher is not None:
            distances = one_minus_cosine(teacher.numpy(), moved.numpy())
            weights = (distances / distances.mean()) ** power
        for place in np.ndindex(*leaf.shape):
            value, ends = moved[place].item(), []
            for shift in (1e-6, -1e-6):
                moved[place] = value + shift
                ends.append(model.loss(found).item())
            moved[place] = value
            gradient[place] = (ends[0] - ends[1]) / 2e-6
        assert leaf.grad is not None
        np.testing.assert_allclose(leaf.grad.numpy(), gradient * weights[..., None], rtol=1e-5, atol=1e-9)


def test_gradients_of_all_parameters_equal_finite_differences(moved: INPFormer) -> None:
    """The test moves each parameter in a random direction; all patches count equally. The gather loss is a part of the
    loss."""
    features = [torch.randn(2, 6, 192, dtype=torch.float64) for _ in range(2)]
    parameters = {f"{i}.{n}": p for i, part in enumerate(moved.students) for n, p in part.named_parameters()}
    loss = moved.loss(moved.compare(None, features))
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    generator = torch.Generator().manual_seed(2)
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        direction, ends = torch.randn(parameter.shape, generator=generator, dtype=torch.float64), []
        direction /= direction.norm()  # a longer step crosses the kinks of ReLU and of the nearest prototype
        with torch.no_grad():
            for shift in (1e-6, -2e-6, 1e-6):
                parameter.add_(shift * direction)
                ends.append(moved.loss(moved.compare(None, features)).item())
        expected = (ends[0] - ends[1]) / 2e-6
        assert (gradient * direction).sum().item() == pytest.approx(expected, rel=1e-4, abs=1e-8), name


# The map.


def test_the_map_is_the_restoration_map(model: INPFormer) -> None:
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        found = model.compare(images, model.describe(images))
        expected = make_restoration_map(found.teachers, found.students, (64, 96), 16)
        assert torch.equal(map_of(model.detect(found)), expected) and expected.shape == (2, 1, 256, 384)


def test_the_score_is_the_mean_of_the_highest_hundredth_of_the_map(model: INPFormer) -> None:
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    prediction = model(pixels)
    highest = np.sort(prediction.anomaly_map.detach().numpy().reshape(2, -1))[:, -40:]  # a hundredth of 64 x 64 pixels
    np.testing.assert_allclose(prediction.score.detach().numpy(), highest.mean(axis=1), rtol=1e-5)


VIEWS = {"square": View(64), "wide": View((48, 96)), "cropped": View(96, crop=64), "padded": View(96, fit="pad")}


@pytest.mark.parametrize("name", VIEWS)
def test_a_planted_patch_of_noise_is_found_at_its_place(name: str, vit_file: Path) -> None:
    check_planted_noise_is_found(made(vit_file, VIEWS[name]), steps=60)


# The training.


@pytest.mark.parametrize(("of_trainer", "clip"), [(None, 0.001), (0.0005, 0.0005)])
def test_a_fit_follows_the_schedule_and_clips_gradients(
    of_trainer: float | None, clip: float, vit_file: Path, images: Path, tmp_path: Path
) -> None:
    model = made(vit_file, warmup=2, clip=0.001)
    check_schedule_and_clipping(model, ("extractor", "bottleneck", "decoder"), 1e-3, of_trainer, clip, images, tmp_path)


def test_zero_prototypes_are_refused(vit_file: Path) -> None:
    with pytest.raises(UserError, match=r"model\.prototypes must be 1 or more, not 0"):
        made(vit_file, prototypes=0)
