"""ReContrast: Domain-Specific Anomaly Detection via Contrastive Reconstruction (Guo et al., NeurIPS 2023),
https://arxiv.org/abs/2306.02602.

Reverse Distillation by two encoders: a frozen one, and a copy of it that training moves towards the product's own
images. The decoder restores the frozen encoder's features from the trained one's, and the trained one's from the frozen
one's. What is compared comes from two views of an image, so that neither encoder can make its task easy by saying the
same of everything.
Shapes: B batch, L levels from fine to coarse, C channels, (h, w) feature map, (H, W) image.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from lit_ad.batch import Others, Prediction
from lit_ad.image.view import View
from lit_ad.methods.base import Method
from lit_ad.methods.distances import cosine_distance
from lit_ad.methods.initialisation import initialise_convolutions
from lit_ad.methods.maps import gaussian_blur
from lit_ad.methods.restoration import gather_processes
from lit_ad.methods.reverse_distillation import (
    Decoder,
    OneClassEmbedding,
    Pairs,
    block_counts,
    check_levels,
    check_sides,
    convolution,
    distance_maps,
    inner_share,
)
from lit_ad.teachers import Backbone, Teacher

EASIEST, HARDEST = -3.0, 1.0  # deviations above the mean from which on a point counts, at first and later


class ReContrast(Method):
    """A frozen and a trained encoder of any timm CNN, and one decoder of both.

    Features of the frozen encoder may be cached; the trained one needs the pixels.

    Args:
        backbone: timm name; the paper's is WideResNet-50.
        taps: Levels, as timm counts them, each of twice the stride before it: 1 to 3 are strides 4, 8 and 16.
        weights: Those that both encoders begin with: hub, hf-hub:OWNER/REPO, pip:PACKAGE, or a file.
        view: How images become network inputs.
        batchnorm: Of the trained encoder, in training: it takes its statistics from each batch ("train"), or keeps
            those it began with ("eval"), as the authors do for some categories, and for many categories in one model.
        ramp: Part of the training's steps over which more and more of the points that are restored best are left out
            of the gradient: at first those that lie 3 deviations below the mean distance of a batch, in the end all
            below 1 deviation above it.
        lr: AdamW's, of bottleneck and decoder.
        encoder_lr: Of the trained encoder.
        weight_decay: AdamW's.
    """

    def __init__(
        self,
        backbone: str = "wide_resnet50_2.tv_in1k",
        taps: Sequence[int] = (1, 2, 3),
        weights: str = "hub",
        view: View = View(256),
        batchnorm: Literal["train", "eval"] = "train",
        ramp: float = 0.1,
        lr: float = 2e-3,
        encoder_lr: float = 1e-5,
        weight_decay: float = 1e-5,
    ) -> None:
        teacher = Teacher(backbone, taps, weights)
        check_levels("ReContrast", teacher)
        super().__init__(view.of_multiple(2 * teacher.strides[-1]))  # the embedding's stride
        self.teacher = teacher
        self.encoder = _Encoder(teacher, batchnorm)
        inner, depths = inner_share(teacher), block_counts(teacher)
        self.bottleneck = OneClassEmbedding(teacher.channels, inner).to(memory_format=torch.channels_last)
        self.decoder = _TwoHeadedDecoder(teacher.channels, inner, depths).to(memory_format=torch.channels_last)
        self.ramp, self.lr, self.encoder_lr, self.weight_decay = ramp, lr, encoder_lr, weight_decay
        self.ramp_steps = 0.0  # known when the optimizer is made

    def compare(self, images: Tensor, features: list[Tensor]) -> Pairs:
        """What is to be restored, and the decoder's answer, 2 L x 2 x (B, C, h, w): first the frozen encoder's levels,
        restored from the trained one's, then the other way round.

        Both encoders' levels are one batch, over which the decoder's BatchNorm takes its statistics.

        Raises:
            UserError: H or W is no multiple of the embedding's stride.
        """
        check_sides(features[-1], self.teacher.strides[-1])
        trained = self.encoder(images)
        both = [torch.cat(levels) for levels in zip(trained, features, strict=True)]
        from_trained, from_frozen = self.decoder(self.bottleneck(both))
        targets = [*features, *(level.detach() for level in trained)]
        return list(zip(targets, [*from_trained, *from_frozen], strict=True))

    def loss(self, disagreement: Pairs) -> Tensor:
        """One minus the cosine of whole levels, mean over images, summed over levels; half of either direction."""
        pairs = [(target.flatten(1), restored.flatten(1)) for target, restored in disagreement]
        return torch.stack([cosine_distance(target, restored).mean() for target, restored in pairs]).sum() / 2

    def training_loss(self, images: Tensor, features: list[Tensor], others: Others) -> Tensor:
        """The same loss; the points that are restored best move nothing."""
        pairs = self.compare(images, features)
        deviations = hardness(self.global_step, self.ramp_steps)
        for target, restored in pairs:
            hard = select_hard(cosine_distance(target, restored).detach(), deviations)
            restored.register_hook(partial(torch.mul, hard[:, None].to(restored.dtype)))
        return self.loss(pairs)

    def detect(self, disagreement: Pairs) -> Prediction:
        """The sum of all distances at the image's resolution, smoothed; the maximum is the score."""
        return Prediction(gaussian_blur(distance_maps(disagreement, self.teacher.strides[0]).sum(dim=0), sigma=4.0))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        self.ramp_steps = self.ramp * self.total_steps("mining of hard points takes its time from the whole training")
        students = [*self.bottleneck.parameters(), *self.decoder.parameters()]
        groups: list[dict[str, Any]] = [{"params": students}]
        groups.append({"params": list(self.encoder.parameters()), "lr": self.encoder_lr})
        return torch.optim.AdamW(groups, lr=self.lr, weight_decay=self.weight_decay)


class _Encoder(Backbone):
    """A copy of a teacher that is trained.

    Args:
        teacher: What it begins as.
        batchnorm: "train", or "eval" for statistics that stay the teacher's.
    """

    def __init__(self, teacher: Teacher, batchnorm: Literal["train", "eval"]) -> None:
        super().__init__(teacher.name, teacher.taps)
        self.model.load_state_dict(teacher.model.state_dict())
        self.moves_statistics = batchnorm == "train"

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and self.moves_statistics)


class _TwoHeadedDecoder(nn.Module):
    """Reverse Distillation's decoder with two 1x1 convolutions at each level: one says what the frozen encoder sees,
    the other what the trained one sees. Arguments as for Decoder."""

    def __init__(self, channels: Sequence[int], inner: float | None, depths: Sequence[int]) -> None:
        super().__init__()
        self.trunk = Decoder(channels, inner, depths)
        self.frozen, self.trained = (nn.ModuleList(convolution(c, c, 1) for c in channels) for _ in range(2))
        for heads in (self.frozen, self.trained):
            initialise_convolutions(heads)

    def forward(self, embedding: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """(2 B, 2 C_L, h_L / 2, w_L / 2), the trained encoder's half first -> the frozen encoder's levels from that
        half, and the trained encoder's from the other one, L x (B, C, h, w) each."""
        levels, half = self.trunk(embedding), embedding.shape[0] // 2  # len would fix an export to one batch size
        frozen = [head(level[:half]) for head, level in zip(self.frozen, levels, strict=True)]
        trained = [head(level[half:]) for head, level in zip(self.trained, levels, strict=True)]
        return frozen, trained


def hardness(step: int, ramp: float) -> float:
    """How many deviations above the mean a distance lies that counts: from EASIEST, in `ramp` steps, to HARDEST."""
    return HARDEST if step >= ramp else EASIEST + (HARDEST - EASIEST) * step / ramp


def select_hard(distances: Tensor, deviations: float) -> Tensor:
    """True where a distance lies so many deviations above the mean of the batches of all processes, or more:
    (B, h, w) -> the same shape."""
    everywhere = gather_processes(distances)
    return distances >= everywhere.mean() + deviations * everywhere.std()
