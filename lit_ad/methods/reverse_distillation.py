"""Anomaly Detection via Reverse Distillation (Deng and Li, CVPR 2022), https://arxiv.org/abs/2201.10703.

A bottleneck squeezes the frozen teacher's feature maps into one embedding, and a decoder student grows them back from
it. Both learn on nominal images: what is anomalous does not pass the bottleneck, and the decoder cannot restore it.
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
from lit_ad.methods.distances import cosine_distance
from lit_ad.methods.initialisation import initialise_convolutions
from lit_ad.methods.maps import gaussian_blur
from lit_ad.teachers import Backbone, Teacher

Pairs = list[tuple[Tensor, Tensor]]


class ReverseDistillation(Method):
    """A decoder student of any timm CNN: it has the teacher's channels, strides and kind of block. It needs no pixels
    once features are cached.

    Args:
        backbone: timm name; the paper's is WideResNet-50.
        taps: Levels, as timm counts them, each of twice the stride before it: 1 to 3 are strides 4, 8 and 16.
        weights: The teacher's: hub, hf-hub:OWNER/REPO, pip:PACKAGE, or a file.
        view: How images become network inputs.
        cosine: What the loss compares of a level: a whole "image" at once, as in the authors' code, or each "position"
            by itself, as the paper writes it; their results are not reached so.
        fusion: Of the levels' maps: "sum" or "product".
        lr: Adam's learning rate.
        betas: Adam's.
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
        inner, depths = inner_share(teacher), block_counts(teacher)
        self.bottleneck = OneClassEmbedding(teacher.channels, inner).to(memory_format=torch.channels_last)
        self.decoder = Decoder(teacher.channels, inner, depths).to(memory_format=torch.channels_last)
        self.cosine, self.fusion, self.lr, self.betas = cosine, fusion, lr, betas

    def compare(self, images: Tensor | None, features: list[Tensor]) -> Pairs:
        """The teacher's maps and the decoder's, L x 2 x (B, C, h, w).

        Raises:
            UserError: H or W is no multiple of the embedding's stride.
        """
        check_sides(features[-1], self.teacher.strides[-1])
        return list(zip(features, self.decoder(self.bottleneck(features)), strict=True))

    def loss(self, disagreement: Pairs) -> Tensor:
        """One minus the cosine, mean over images (and positions), sum over levels."""
        pairs = disagreement
        if self.cosine == "image":
            pairs = [(teacher.flatten(1), student.flatten(1)) for teacher, student in disagreement]
        return torch.stack([cosine_distance(teacher, student).mean() for teacher, student in pairs]).sum()

    def detect(self, disagreement: Pairs) -> Prediction:
        """The levels' distances at the image's resolution, fused and smoothed; the maximum is the score."""
        maps = distance_maps(disagreement, self.teacher.strides[0])
        fused = maps.sum(dim=0) if self.fusion == "sum" else maps.prod(dim=0)
        return Prediction(gaussian_blur(fused, sigma=4.0))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        parameters = [*self.bottleneck.parameters(), *self.decoder.parameters()]
        return torch.optim.Adam(parameters, lr=self.lr, betas=self.betas)


class OneClassEmbedding(nn.Module):
    """All levels brought to the coarsest one's size, joined, and squeezed to half of it by a few blocks.

    Args:
        channels: Of the levels.
        inner: See Block.
    """

    def __init__(self, channels: Sequence[int], inner: float | None) -> None:
        super().__init__()
        last = channels[-1]
        self.down = nn.ModuleList(
            nn.Sequential(*(_strided(a, b) for a, b in zip(channels[i:-1], channels[i + 1 :], strict=True)))
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
    """A stage for each level, from coarse to fine, whose first block doubles height and width.

    Args:
        channels: Of the levels.
        inner: See Block.
        depths: Blocks of the stages, in their order: the teacher's, from its first stage on, not mirrored.
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
        before: Channels of what comes in.
        out: Channels of what goes out.
        inner: Width of the 3x3 convolution as a share of `out`, in a bottleneck block. None: a basic block.
        resize: "down" by a strided convolution, "up" by a 2x2 transposed one in its place.
    """

    def __init__(self, before: int, out: int, inner: float | None, resize: Literal["down", "up"] | None = None) -> None:
        super().__init__()
        if inner is None:
            layers = [resizing(before, out, 3, resize), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            layers += [convolution(out, out, 3), nn.BatchNorm2d(out)]
        else:
            width = round(inner * out)
            layers = [convolution(before, width, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            layers += [resizing(width, width, 3, resize), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            layers += [convolution(width, out, 1), nn.BatchNorm2d(out)]
        self.residual = nn.Sequential(*layers)
        same = resize is None and before == out
        self.shortcut = nn.Identity() if same else nn.Sequential(resizing(before, out, 1, resize), nn.BatchNorm2d(out))
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.residual(x) + self.shortcut(x))
        return out


def distance_maps(pairs: Pairs, stride: int) -> Tensor:
    """One minus the cosine of each level at the image's resolution, L x 2 x (B, C, h, w) -> (L, B, 1, H, W).

    Args:
        pairs: Teacher and student; the first pair is of the finest level.
        stride: Of that level.
    """
    size = [side * stride for side in pairs[0][0].shape[-2:]]
    levels = [cosine_distance(teacher, student)[:, None] for teacher, student in pairs]
    return torch.stack([interpolate(level, size, mode="bilinear", align_corners=True) for level in levels])


def check_levels(method: str, teacher: Backbone) -> None:
    """Raises UserError where a decoder could not double its way from the coarsest of a teacher's levels to the finest.
    `method`: its name, for the message."""
    steps = zip(teacher.strides[:-1], teacher.strides[1:], strict=True)
    if teacher.is_vit or len(teacher.taps) < 2 or any(coarse != 2 * fine for fine, coarse in steps):
        raise UserError(
            f"{method} takes two levels of a CNN or more, each of twice the stride before it, but model.taps "
            f"{list(teacher.taps)} of {teacher.name} have strides {teacher.strides}"
        )


def check_sides(coarsest: Tensor, stride: int) -> None:
    """Raises UserError where the decoder could not double the embedding of a level (B, C, h, w) of that stride."""
    if any(side % 2 for side in coarsest.shape[-2:]):
        raise UserError(
            f"the decoder doubles an embedding of stride {2 * stride}: images must have sides that are a multiple of "
            "it (set model.view.image_size, or leave model.view.multiple as it is)"
        )


def inner_share(teacher: Backbone) -> float | None:
    """Width of the 3x3 convolution in a bottleneck block as a share of its output: 1/4 for a ResNet-50, 1/2 for the
    wide one. None: the teacher's blocks are no bottlenecks."""
    blocks = [module for module in teacher.model.modules() if isinstance(module, TeacherBottleneck)]
    return blocks[0].conv1.out_channels / blocks[0].conv3.out_channels if blocks else None


def block_counts(teacher: Backbone) -> list[int]:
    """Blocks of each tapped stage: a ResNet's own, and 2 for other networks."""
    stages = [getattr(teacher.model, f"layer{tap}", None) for tap in teacher.taps]
    return [len(stage) if isinstance(stage, nn.Sequential) else 2 for stage in stages]


def _strided(before: int, out: int) -> nn.Sequential:
    """(B, before, h, w) -> (B, out, h / 2, w / 2)."""
    return nn.Sequential(resizing(before, out, 3, "down"), nn.BatchNorm2d(out), nn.ReLU(inplace=True))


def resizing(before: int, out: int, side: int, resize: Literal["down", "up"] | None) -> nn.Module:
    if resize == "up":
        return nn.ConvTranspose2d(before, out, 2, stride=2, bias=False)
    return convolution(before, out, side, stride=2 if resize == "down" else 1)


def convolution(before: int, out: int, side: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, out, side, stride, padding=side // 2, bias=False)
