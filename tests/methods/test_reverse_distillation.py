"""These tests compare Reverse Distillation with the paper's formulas in NumPy and SciPy, and its blocks with
torchvision's residual blocks."""

from pathlib import Path
from typing import TypeGuard

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods.reverse_distillation import (
    Block,
    Decoder,
    OneClassEmbedding,
    ReverseDistillation,
    count_blocks,
    find_inner_fraction,
)
from lit_ad.teachers import Backbone
from tests.judging import map_of
from tests.methods.levels_by_hand import as_arrays, one_minus_cosine, stretched_distances


@pytest.fixture
def model(resnet_file: Path) -> ReverseDistillation:
    torch.manual_seed(0)
    return ReverseDistillation("resnet10t", weights=str(resnet_file), view=View(64)).eval()


def test_the_loss_is_one_minus_the_cosine_of_whole_levels_or_of_positions(model: ReverseDistillation) -> None:
    images = torch.rand(3, 3, 64, 64)
    whole = each = 0.0
    for teacher, student in as_arrays(model.compare(None, model.teacher(images))):  # no pixels are needed
        whole += float(np.mean([one_minus_cosine(t, s) for t, s in zip(teacher, student, strict=True)]))
        places = [(b, y, x) for b in range(3) for y in range(teacher.shape[2]) for x in range(teacher.shape[3])]
        each += float(np.mean([one_minus_cosine(teacher[b, :, y, x], student[b, :, y, x]) for b, y, x in places]))
    found = model.compare(None, model.teacher(images))
    assert model.loss(found).item() == pytest.approx(whole, rel=1e-5)
    model.cosine = "position"
    assert model.loss(found).item() == pytest.approx(each, rel=1e-5)
    assert abs(whole - each) > 1e-3  # the two losses differ
    with torch.autocast("cpu", torch.bfloat16):
        assert model.loss(model.compare(None, model.teacher(images))).dtype == torch.float32


@pytest.mark.parametrize("fusion", ["sum", "product"])
def test_the_map_is_the_smoothed_sum_or_product_of_levels(model: ReverseDistillation, fusion: str) -> None:
    model.fusion = fusion  # type: ignore[assignment]
    pixels = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    levels = stretched_distances(as_arrays(model.compare(None, model.teacher(pixels / 255))), (64, 96))
    fused = np.sum(levels, axis=0) if fusion == "sum" else np.prod(levels, axis=0)
    expected = np.stack([gaussian_filter(one, 4) for one in fused])
    prediction = model(pixels)
    np.testing.assert_allclose(prediction.anomaly_map.detach().numpy()[:, 0], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(prediction.score.detach().numpy(), expected.max(axis=(1, 2)), rtol=1e-4)


@pytest.mark.parametrize("place", [(0, 0), (3, 1), (1, 5), (3, 5)])
def test_the_maximum_of_the_map_lies_at_the_difference(model: ReverseDistillation, place: tuple[int, int]) -> None:
    y, x = place  # a place in the coarsest level, whose stride is 16
    pairs = [(t, t.clone()) for t in model.teacher(torch.rand(1, 3, 64, 96))]
    assert map_of(model.detect(pairs)).abs().max() < 1e-5  # teacher and student are equal everywhere
    for i, side in enumerate((4, 2, 1)):
        pairs[i][1][:, :, side * y : side * (y + 1), side * x : side * (x + 1)] *= -1
    row, column = divmod(int(map_of(model.detect(pairs)).argmax()), 96)
    assert (row // 16, column // 16) == place


# The levels of the paper's teachers: channels, width of a bottleneck's 3x3 convolution, blocks of the first stages.
BACKBONES = {
    "resnet18": ([64, 128, 256], None, [2, 2, 2]),
    "wide_resnet50_2": ([256, 512, 1024], 0.5, [3, 4, 6]),
    "tf_efficientnet_lite0": ([24, 40, 112], None, [2, 2, 2]),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_bottleneck_and_decoder_follow_from_the_levels_of_the_teacher(name: str) -> None:
    channels, inner, depths = BACKBONES[name]
    teacher = Backbone(name, (1, 2, 3))
    assert (teacher.channels, find_inner_fraction(teacher), count_blocks(teacher)) == (channels, inner, depths)
    bottleneck, decoder = OneClassEmbedding(channels, inner).eval(), Decoder(channels, inner, depths).eval()
    levels = [torch.randn(1, c, 64 // s, 96 // s) for c, s in zip(channels, (4, 8, 16), strict=True)]
    with torch.no_grad():
        embedding = bottleneck(levels)
        assert embedding.shape == (1, 2 * channels[-1], 2, 3)
        assert [level.shape for level in decoder(embedding)] == [level.shape for level in levels]
    a, b, c = channels
    down = [[(m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0]) for m in path.modules() if conv(m)]
            for path in bottleneck.down]  # fmt: skip
    assert down == [[(a, b, 3, 2), (b, c, 3, 2)], [(b, c, 3, 2)], []]
    assert len(bottleneck.squeeze) == (2 if inner is None else 3)
    assert [len(stage) for stage in decoder.stages if isinstance(stage, nn.Sequential)] == depths
    for stage, before, out in zip(decoder.stages, (2 * c, c, b), (c, b, a), strict=True):
        transposed = [m for m in stage.modules() if isinstance(m, nn.ConvTranspose2d)]
        assert {(m.kernel_size, m.stride) for m in transposed} == {((2, 2), (2, 2))}
        width = None if inner is None else round(inner * out)
        path = (before, out) if width is None else (width, width)
        # The path and the shortcut.
        assert [(m.in_channels, m.out_channels) for m in transposed] == [path, (before, out)]
    assert not any(m.bias is not None for net in (bottleneck, decoder) for m in net.modules() if conv(m))


def conv(module: nn.Module) -> TypeGuard[nn.Conv2d | nn.ConvTranspose2d]:
    return isinstance(module, nn.Conv2d | nn.ConvTranspose2d)


@pytest.mark.parametrize("resize", [None, "down"])
@pytest.mark.parametrize("inner", [None, 0.25, 0.5])
def test_the_residual_blocks_equal_torchvisions_blocks(resize: str | None, inner: float | None) -> None:
    before, out, stride = (24, 16, 2) if resize else (16, 16, 1)
    block = Block(before, out, inner, resize).eval()  # type: ignore[arg-type]
    shortcut = nn.Sequential(nn.Conv2d(before, out, 1, stride, bias=False), nn.BatchNorm2d(out)) if resize else None
    if inner is None:
        expected: nn.Module = BasicBlock(before, out, stride, shortcut)
    else:
        expected = Bottleneck(before, out // 4, stride, shortcut, base_width=round(256 * inner))
    state = expected.state_dict()
    expected.load_state_dict(dict(zip(state, block.state_dict().values(), strict=True)))
    images = torch.randn(2, before, 8, 8)
    torch.testing.assert_close(block(images), expected.eval()(images))


def test_convolutions_begin_with_weights_of_he_and_transposed_ones_of_pytorch(model: ReverseDistillation) -> None:
    """Convolutions have He's weights by fan out. Transposed convolutions have PyTorch's own weights, uniform up to 1 /
    sqrt(fan in of the weight)."""
    found = {nn.Conv2d: 0, nn.ConvTranspose2d: 0}
    for layer in [*model.bottleneck.modules(), *model.decoder.modules()]:
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 5000:
            fan_out = layer.out_channels * layer.kernel_size[0] ** 2
            assert layer.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
            found[nn.Conv2d] += 1
        elif isinstance(layer, nn.ConvTranspose2d):
            bound = (layer.out_channels * 4) ** -0.5
            assert 0.9 * bound < layer.weight.abs().max().item() <= bound
            found[nn.ConvTranspose2d] += 1
    assert min(found.values()) > 3


def test_only_bottleneck_and_decoder_are_optimised(model: ReverseDistillation) -> None:
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)
    assert (optimizer.defaults["lr"], optimizer.defaults["betas"]) == (0.005, (0.5, 0.999))
    optimised = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for p in model.parameters() if p.requires_grad}
    assert optimised == {id(p) for n, p in model.named_parameters() if n.split(".")[0] in ("bottleneck", "decoder")}


def test_training_lowers_the_loss(model: ReverseDistillation) -> None:
    features = model.teacher(torch.rand(4, 3, 64, 64))
    optimizer = model.train().configure_optimizers()
    losses = []
    for _ in range(15):
        losses.append(model.loss(model.compare(None, features)))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_a_vit_and_taps_and_sizes_that_do_not_fit_are_refused(resnet_file: Path, vit_file: Path) -> None:
    with pytest.raises(UserError, match=r"two levels of a CNN.*have strides \[16, 16\]"):
        ReverseDistillation("deit_tiny_patch16_224", (3, 7), str(vit_file))
    with pytest.raises(UserError, match=r"twice the stride before it.* have strides \[4, 16\]"):
        ReverseDistillation("resnet10t", (1, 3), str(resnet_file))
    model = ReverseDistillation("resnet10t", weights=str(resnet_file), view=View(40))
    assert model.view.multiple == 32
    with pytest.raises(UserError, match="an embedding of stride 32"):
        model(torch.zeros(1, 3, 48, 64, dtype=torch.uint8))
