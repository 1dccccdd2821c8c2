"""Dual-Student Knowledge Distillation Networks for Unsupervised Anomaly Detection (Yao and Gao, 2024),
https://arxiv.org/abs/2402.00448.

An encoder student learns the frozen teacher's features of an image. A bottleneck squeezes the encoder's features
into one embedding, from which a decoder student learns to restore the teacher's features. The encoder detects small
defects. The decoder detects structure that no nominal image has.
Shapes: B batch, L levels from fine to coarse, C channels, (h, w) feature map, (H, W) image.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lit_ad.batch import Prediction
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods.base import Method
from lit_ad.methods.distances import measure_cosine_distance
from lit_ad.methods.maps import smooth_map, upsample
from lit_ad.methods.reverse_distillation import (
    Decoder,
    OneClassEmbedding,
    check_sides,
    count_blocks,
    find_inner_fraction,
)
from lit_ad.teachers import Backbone, Teacher


class DSKD(Method):
    """An encoder and a decoder student of any timm CNN.

    We found neither the paper's code nor the weights of its terms. Our choices: both students' losses have the same
    weight, the distances of a student are summed over its levels, and the two students' maps are multiplied.
    Bottleneck, decoder, smoothing and optimiser are those of Reverse Distillation. timm draws the encoder's initial
    weights (see Backbone).

    Args:
        backbone: timm name with the tag of its weights; the paper's is ResNet-18.
        taps: Feature levels, by timm's numbers: 1 to 3 have strides 4, 8 and 16. Each stride must be twice the one
            before.
        weights: Source of the teacher's weights: hub, hf-hub:OWNER/REPO, pip:PACKAGE, or a file.
        view: How images become network inputs.
        fusion: How the maps of both students are combined: "product" or "sum".
        lr: Learning rate of Adam.
        betas: Adam's decay rates of its two moments.
    """

    def __init__(
        self,
        backbone: str = "resnet18.tv_in1k",
        taps: Sequence[int] = (1, 2, 3),
        weights: str = "hub",
        view: View = View(256),
        fusion: Literal["product", "sum"] = "product",
        lr: float = 0.005,
        betas: tuple[float, float] = (0.5, 0.999),
    ) -> None:
        teacher = Teacher(backbone, taps, weights)
        if teacher.is_vit or teacher.strides != [teacher.strides[0] * 2**level for level in range(len(taps))]:
            raise UserError(
                "DSKD takes levels of a CNN, each of twice the stride before it, but model.taps "
                f"{list(taps)} of {backbone} have strides {teacher.strides}"
            )
        super().__init__(view.of_multiple(2 * teacher.strides[-1]))  # the embedding's stride
        self.teacher = teacher
        self.encoder = Backbone(backbone, taps)
        inner = find_inner_fraction(teacher)
        self.bottleneck = OneClassEmbedding(teacher.channels, inner).to(memory_format=torch.channels_last)
        self.decoder = Decoder(teacher.channels, inner, count_blocks(teacher)).to(memory_format=torch.channels_last)
        self.fusion, self.lr, self.betas = fusion, lr, betas

    def compare(self, images: Tensor, features: list[Tensor]) -> "Disagreement":
        """Return both students' distances from the teacher.

        Raises:
            UserError: H or W is not a multiple of the embedding's stride.
        """
        check_sides(features[-1], self.teacher.strides[-1])
        encoded = self.encoder(images)
        decoded = self.decoder(self.bottleneck(encoded))
        pyramids = [
            [measure_cosine_distance(t, s)[:, None] for t, s in zip(features, pyramid, strict=True)]
            for pyramid in (encoded, decoded)
        ]
        return Disagreement(pyramids[0], pyramids[1], (images.shape[-2], images.shape[-1]))

    def loss(self, disagreement: "Disagreement") -> Tensor:
        """Return one minus the cosine, mean over batch and positions, summed over levels and students: a scalar."""
        return torch.stack([level.mean() for level in [*disagreement.encoder, *disagreement.decoder]]).sum()

    def detect(self, disagreement: "Disagreement") -> Prediction:
        """Combine and smooth both students' maps at the image's resolution: (B, 1, H, W)."""
        size = disagreement.size
        encoder, decoder = (
            torch.stack([upsample(level, size) for level in pyramid]).sum(dim=0) for pyramid in disagreement[:2]
        )
        return Prediction(smooth_map(encoder * decoder if self.fusion == "product" else encoder + decoder, sigma=4.0))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        students = (self.encoder, self.bottleneck, self.decoder)
        parameters = [parameter for student in students for parameter in student.parameters()]
        return torch.optim.Adam(parameters, lr=self.lr, betas=self.betas)


class Disagreement(NamedTuple):
    """Each student's cosine distances from the teacher, and the size of the network's input."""

    encoder: list[Tensor]  # L x (B, 1, h, w)
    decoder: list[Tensor]  # L x (B, 1, h, w)
    size: tuple[int, int]  # (H, W)
