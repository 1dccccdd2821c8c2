"""Anomaly Detection via Reverse Distillation (Deng and Li, CVPR 2022), https://arxiv.org/abs/2201.10703.

A bottleneck squeezes the frozen teacher's feature maps into one embedding, and a decoder, the student, restores the
maps from it. Both learn on nominal images: an anomaly does not pass the bottleneck, so the decoder cannot restore it.
Shapes: B batch, L levels from fine to coarse, C channels, (h, w) feature map, (H, W) image.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from timm.models.resnet import Bottleneck as TeacherBottleneck
from torch import Tensor, nn
from torch.nn.functional import interpolate

from lit_ad.batch import Prediction
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods.base import Method
from lit_ad.methods.distances import measure_cosine_distance
from lit_ad.methods.initialisation import initialise_convolutions
from lit_ad.methods.maps import smooth_map
from lit_ad.teachers import Backbone, Teacher

Pairs = list[tuple[Tensor, Tensor]]


class ReverseDistillation(Method):
    """A decoder for the features of any timm CNN: it has the teacher's channels, strides and kind of block. It needs no
    pixels once features are cached.

    Args:
        backbone: timm name; the paper's is WideResNet-50.
        taps: Feature levels, by timm's numbers: 1 to 3 have strides 4, 8 and 16. Each stride must be twice the one
            before.
        weights: Source of the teacher's weights: hub, hf-hub:OWNER/REPO, pip:PACKAGE, or a file.
        view: How images become network inputs.
        cosine: The vectors whose cosine is the loss of a level: "image" flattens a level of an image to one vector, as
            the authors' code does. "position" takes the channels at each position, as the paper writes; it does not
            reach their results.
        fusion: How the maps of the levels are combined: "sum" or "product".
        lr: Learning rate of Adam.
        betas: Adam's decay rates of its two moments.
    """

    needs_pixels = False

    def __init__(
        self,
        backbone: str = "wide_resnet50_2.tv_in1k",
        taps: Sequence[int] = (1, 2, 3),
        weights: str = "hub",
        view: View = View(256),
        cosine: Literal["image", "position"] = "image",
        fusion: Literal["sum", "product"] = "sum",
        lr: float = 0.005,
        betas: tuple[float, float] = (0.5, 0.999),
    ) -> None:
        teacher = Teacher(backbone, taps, weights)
        check_levels("Reverse Distillation", teacher)
        super().__init__(view.of_multiple(2 * teacher.strides[-1]))  # the embedding's stride
        self.teacher = teacher
        inner, depths = find_inner_fraction(teacher), count_blocks(teacher)
        self.bottleneck = OneClassEmbedding(teacher.channels, inner).to(memory_format=torch.channels_last)
        self.decoder = Decoder(teacher.channels, inner, depths).to(memory_format=torch.channels_last)
        self.cosine, self.fusion, self.lr, self.betas = cosine, fusion, lr, betas

    def compare(self, images: Tensor | None, features: list[Tensor]) -> Pairs:
        """Return the pairs of the teacher's and the decoder's feature maps, L x 2 x (B, C, h, w).

        Raises:
            UserError: H or W is not a multiple of the embedding's stride.
        """
        check_sides(features[-1], self.teacher.strides[-1])
        return list(zip(features, self.decoder(self.bottleneck(features)), strict=True))

    def loss(self, disagreement: Pairs) -> Tensor:
        """Return one minus the cosine, mean over images (and positions), summed over levels: a scalar."""
        pairs = disagreement
        if self.cosine == "image":
            pairs = [(teacher.flatten(1), student.flatten(1)) for teacher, student in disagreement]
        return torch.stack([measure_cosine_distance(teacher, student).mean() for teacher, student in pairs]).sum()

    def detect(self, disagreement: Pairs) -> Prediction:
        """Combine and smooth the levels' distances at the image's size: (B, 1, H, W). The score is the maximum."""
        maps = make_distance_maps(disagreement, self.teacher.strides[0])
        fused = maps.sum(dim=0) if self.fusion == "sum" else maps.prod(dim=0)
        return Prediction(smooth_map(fused, sigma=4.0))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        parameters = [*self.bottleneck.parameters(), *self.decoder.parameters()]
        return torch.optim.Adam(parameters, lr=self.lr, betas=self.betas)


class OneClassEmbedding(nn.Module):
    """Brings all levels to the size of the coarsest by convolutions, joins them, and squeezes them to half that size.

    Args:
        channels: Channels of each level.
        inner: See Block.
    """

    def __init__(self, channels: Sequence[int], inner: float | None) -> None:
        super().__init__()
        last = channels[-1]
        self.down = nn.ModuleList(
            nn.Sequential(*(_make_strided(a, b) for a, b in zip(channels[i:-1], channels[i + 1 :], strict=True)))
            for i in range(len(channels))
        )
        blocks = [Block(2 * last, 2 * last, inner) for _ in range(1 if inner is None else 2)]
        self.squeeze = nn.Sequential(Block(len(channels) * last, 2 * last, inner, "down"), *blocks)
        initialise_convolutions(self)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """L x (B, C, h, w) -> (B, 2 C_L, h_L / 2, w_L / 2)."""
        embedding: Tensor = self.squeeze(
            torch.cat([down(level) for down, level in zip(self.down, levels, strict=True)], dim=1)
        )
        return embedding


class Decoder(nn.Module):
    """One stage for each level, from coarse to fine. The first block of a stage doubles height and width.

    Args:
        channels: Channels of each level, from fine to coarse.
        inner: See Block.
        depths: Number of blocks of each stage, from coarse to fine. As in the authors' code, the coarsest stage has the
            number of the teacher's finest level, and so on.
    """

    def __init__(self, channels: Sequence[int], inner: float | None, depths: Sequence[int]) -> None:
        super().__init__()
        outs = [*reversed(channels)]
        ins = [2 * outs[0], *outs[:-1]]
        self.stages = nn.ModuleList(
            nn.Sequential(Block(before, out, inner, "up"), *(Block(out, out, inner) for _ in range(depth - 1)))
            for before, out, depth in zip(ins, outs, depths, strict=True)
        )
        initialise_convolutions(self)  # the transposed ones keep PyTorch's default, as in the authors' code

    def forward(self, embedding: Tensor) -> list[Tensor]:
        """(B, 2 C_L, h_L / 2, w_L / 2) -> L x (B, C, h, w), from fine to coarse."""
        levels = [embedding]
        for stage in self.stages:
            levels.append(stage(levels[-1]))
        return levels[:0:-1]


class Block(nn.Module):
    """A residual block, (B, before, h, w) -> (B, out, h, w), or half or twice h and w.

    Args:
        before: Channels of the input.
        out: Channels of the output.
        inner: Channels of a bottleneck block's 3x3 convolution, as a fraction of `out`. None: a basic block.
        resize: "down" halves h and w by a strided convolution, "up" doubles them by a 2x2 transposed convolution.
    """

    def __init__(self, before: int, out: int, inner: float | None, resize: Literal["down", "up"] | None = None) -> None:
        super().__init__()
        if inner is None:
            layers = [_make_resizing(before, out, 3, resize), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            layers += [make_convolution(out, out, 3), nn.BatchNorm2d(out)]
        else:
            width = round(inner * out)
            layers = [make_convolution(before, width, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            layers += [_make_resizing(width, width, 3, resize), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            layers += [make_convolution(width, out, 1), nn.BatchNorm2d(out)]
        self.residual = nn.Sequential(*layers)
        same = resize is None and before == out
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(_make_resizing(before, out, 1, resize), nn.BatchNorm2d(out))
        )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.residual(x) + self.shortcut(x))
        return out


def make_distance_maps(pairs: Pairs, stride: int) -> Tensor:
    """Return one minus the cosine of each level at the image's resolution, L x 2 x (B, C, h, w) -> (L, B, 1, H, W).

    Args:
        pairs: Features of teacher and student; the first pair is the finest level.
        stride: Stride of the finest level in pixels.
    """
    size = [side * stride for side in pairs[0][0].shape[-2:]]
    levels = [measure_cosine_distance(teacher, student)[:, None] for teacher, student in pairs]
    return torch.stack([interpolate(level, size, mode="bilinear", align_corners=True) for level in levels])


def check_levels(method: str, teacher: Backbone) -> None:
    """Raise UserError unless each of a teacher's levels has twice the stride of the one before: a stage of the decoder
    doubles height and width. `method`: its name, for the message."""
    steps = zip(teacher.strides[:-1], teacher.strides[1:], strict=True)
    if teacher.is_vit or len(teacher.taps) < 2 or any(coarse != 2 * fine for fine, coarse in steps):
        raise UserError(
            f"{method} takes two levels of a CNN or more, each of twice the stride before it, but model.taps "
            f"{list(teacher.taps)} of {teacher.name} have strides {teacher.strides}"
        )


def check_sides(coarsest: Tensor, stride: int) -> None:
    """Raise UserError if the coarsest level (B, C, h, w) has an odd side: the embedding has half its size."""
    if any(side % 2 for side in coarsest.shape[-2:]):
        raise UserError(
            f"the decoder doubles an embedding of stride {2 * stride}: images must have sides that are a multiple of "
            "it (set model.view.image_size, or leave model.view.multiple as it is)"
        )


def find_inner_fraction(teacher: Backbone) -> float | None:
    """Return the channels of the 3x3 convolution in the teacher's bottleneck blocks, as a fraction of their output: 1/4
    for a ResNet-50, 1/2 for the wide one. None if the teacher has no bottleneck blocks."""
    blocks = [module for module in teacher.model.modules() if isinstance(module, TeacherBottleneck)]
    return blocks[0].conv1.out_channels / blocks[0].conv3.out_channels if blocks else None


def count_blocks(teacher: Backbone) -> list[int]:
    """Return the number of blocks of each tapped stage: a ResNet's own numbers, and 2 for other networks."""
    stages = [getattr(teacher.model, f"layer{tap}", None) for tap in teacher.taps]
    return [len(stage) if isinstance(stage, nn.Sequential) else 2 for stage in stages]


def _make_strided(before: int, out: int) -> nn.Sequential:
    """Make a convolution with BatchNorm and ReLU, (B, before, h, w) -> (B, out, h / 2, w / 2)."""
    return nn.Sequential(_make_resizing(before, out, 3, "down"), nn.BatchNorm2d(out), nn.ReLU(inplace=True))


def _make_resizing(before: int, out: int, side: int, resize: Literal["down", "up"] | None) -> nn.Module:
    """Make the convolution that halves ("down") or doubles ("up") height and width, or keeps them (None)."""
    if resize == "up":
        return nn.ConvTranspose2d(before, out, 2, stride=2, bias=False)
    return make_convolution(before, out, side, stride=2 if resize == "down" else 1)


def make_convolution(before: int, out: int, side: int, stride: int = 1) -> nn.Conv2d:
    """Make a padded convolution of side x side without bias, (B, before, h, w) -> (B, out, h / stride, w / stride)."""
    return nn.Conv2d(before, out, side, stride, padding=side // 2, bias=False)
