"""ReContrast: Domain-Specific Anomaly Detection via Contrastive Reconstruction (Guo et al., NeurIPS 2023),
https://arxiv.org/abs/2306.02602.

Reverse Distillation with two encoders: a frozen one, and a trained copy that adapts to the product's images. A decoder
restores the features of each encoder from those of the other. The two encoders are two views of an image, so that the
trained encoder cannot make the task easy by giving the same features for everything.
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
from lit_ad.methods.distances import measure_cosine_distance
from lit_ad.methods.initialisation import initialise_convolutions
from lit_ad.methods.maps import smooth_map
from lit_ad.methods.restoration import gather_batches
from lit_ad.methods.reverse_distillation import (
    Decoder,
    OneClassEmbedding,
    Pairs,
    check_levels,
    check_sides,
    count_blocks,
    find_inner_fraction,
    make_convolution,
    make_distance_maps,
)
from lit_ad.teachers import Backbone, Teacher

# Lowest distance that has a gradient, in deviations above the mean: in the first step, and after `ramp`.
EASIEST, HARDEST = -3.0, 1.0


class ReContrast(Method):
    """A frozen and a trained encoder, both any timm CNN, and one decoder for both.

    Features of the frozen encoder may be cached; the trained one needs the pixels.

    Args:
        backbone: timm name; the paper's is WideResNet-50.
        taps: Feature levels, by timm's numbers: 1 to 3 have strides 4, 8 and 16. Each stride must be twice the one
            before.
        weights: Source of both encoders' initial weights: hub, hf-hub:OWNER/REPO, pip:PACKAGE, or a file.
        view: How images become network inputs.
        batchnorm: Statistics of the trained encoder's BatchNorm in training: those of each batch ("train"), or the
            pretrained ones ("eval"). The authors take "eval" for some categories and for one model of many categories.
        ramp: Fraction of the training's steps in which the gradient narrows to the points that are restored worst.
            Points without a gradient have a distance below the batch's mean - 3 deviations in the first step, and below
            the mean + 1 deviation after the ramp.
        lr: Learning rate of AdamW for bottleneck and decoder.
        encoder_lr: Learning rate of AdamW for the trained encoder.
        weight_decay: Weight decay of AdamW.
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
        inner, depths = find_inner_fraction(teacher), count_blocks(teacher)
        self.bottleneck = OneClassEmbedding(teacher.channels, inner).to(memory_format=torch.channels_last)
        self.decoder = _TwoHeadedDecoder(teacher.channels, inner, depths).to(memory_format=torch.channels_last)
        self.ramp, self.lr, self.encoder_lr, self.weight_decay = ramp, lr, encoder_lr, weight_decay
        self.ramp_steps = 0.0  # known when the optimizer is made

    def compare(self, images: Tensor, features: list[Tensor]) -> Pairs:
        """Return pairs of a target and the decoder's output for it, 2 L x 2 x (B, C, h, w). The first L pairs are the
        frozen encoder's levels, restored from the trained one's; the others are the opposite direction.

        Both encoders' levels form one batch, over which the decoder's BatchNorm takes its statistics.

        Raises:
            UserError: H or W is not a multiple of the embedding's stride.
        """
        check_sides(features[-1], self.teacher.strides[-1])
        trained = self.encoder(images)
        both = [torch.cat(levels) for levels in zip(trained, features, strict=True)]
        from_trained, from_frozen = self.decoder(self.bottleneck(both))
        targets = [*features, *(level.detach() for level in trained)]
        return list(zip(targets, [*from_trained, *from_frozen], strict=True))

    def loss(self, disagreement: Pairs) -> Tensor:
        """Return one minus the cosine of each flattened level, mean over images and directions, summed over levels: a
        scalar."""
        pairs = [(target.flatten(1), restored.flatten(1)) for target, restored in disagreement]
        return torch.stack([measure_cosine_distance(target, restored).mean() for target, restored in pairs]).sum() / 2

    def training_loss(self, images: Tensor, features: list[Tensor], others: Others) -> Tensor:
        """Return the same loss. Points that are restored best have no gradient: see `ramp`."""
        pairs = self.compare(images, features)
        deviations = schedule_hardness(self.global_step, self.ramp_steps)
        for target, restored in pairs:
            hard = select_hard(measure_cosine_distance(target, restored).detach(), deviations)
            restored.register_hook(partial(torch.mul, hard[:, None].to(restored.dtype)))
        return self.loss(pairs)

    def detect(self, disagreement: Pairs) -> Prediction:
        """Sum and smooth all distances at the image's resolution: (B, 1, H, W). The maximum is the score."""
        return Prediction(smooth_map(make_distance_maps(disagreement, self.teacher.strides[0]).sum(dim=0), sigma=4.0))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        self.ramp_steps = self.ramp * self.total_steps(why="ramp is a fraction of all steps")
        students = [*self.bottleneck.parameters(), *self.decoder.parameters()]
        groups: list[dict[str, Any]] = [{"params": students}]
        groups.append({"params": list(self.encoder.parameters()), "lr": self.encoder_lr})
        return torch.optim.AdamW(groups, lr=self.lr, weight_decay=self.weight_decay)


class _Encoder(Backbone):
    """A trained copy of a teacher.

    Args:
        teacher: The network to copy.
        batchnorm: "train", or "eval" to keep the teacher's statistics.
    """

    def __init__(self, teacher: Teacher, batchnorm: Literal["train", "eval"]) -> None:
        super().__init__(teacher.name, teacher.taps)
        self.model.load_state_dict(teacher.model.state_dict())
        self.moves_statistics = batchnorm == "train"

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and self.moves_statistics)


class _TwoHeadedDecoder(nn.Module):
    """Reverse Distillation's decoder with two 1x1 convolutions at each level: one predicts the frozen encoder's
    features, the other the trained encoder's. Arguments as for Decoder."""

    def __init__(self, channels: Sequence[int], inner: float | None, depths: Sequence[int]) -> None:
        super().__init__()
        self.trunk = Decoder(channels, inner, depths)
        self.frozen, self.trained = (nn.ModuleList(make_convolution(c, c, 1) for c in channels) for _ in range(2))
        for heads in (self.frozen, self.trained):
            initialise_convolutions(heads)

    def forward(self, embedding: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Predict each encoder's levels from the other's embedding.

        Args:
            embedding: (2 B, 2 C_L, h_L / 2, w_L / 2); the first B are the trained encoder's.

        Returns:
            The frozen encoder's levels, and the trained encoder's, L x (B, C, h, w) each.
        """
        levels, half = self.trunk(embedding), embedding.shape[0] // 2  # len() would fix an export to one batch size
        frozen = [head(level[:half]) for head, level in zip(self.frozen, levels, strict=True)]
        trained = [head(level[half:]) for head, level in zip(self.trained, levels, strict=True)]
        return frozen, trained


def schedule_hardness(step: int, ramp: float) -> float:
    """Return the lowest distance that has a gradient, in deviations above the mean. It rises in `ramp` steps."""
    return HARDEST if step >= ramp else EASIEST + (HARDEST - EASIEST) * step / ramp


def select_hard(distances: Tensor, deviations: float) -> Tensor:
    """Return True for each distance that is at least mean + `deviations` x standard deviation, over the batches of all
    processes: (B, h, w) -> the same shape."""
    everywhere = gather_batches(distances)
    return distances >= everywhere.mean() + deviations * everywhere.std()
