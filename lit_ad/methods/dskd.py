"""Dual-Student Knowledge Distillation Networks for Unsupervised Anomaly Detection (Yao and Gao, 2024),
https://arxiv.org/abs/2402.00448.

An encoder student looks at the image as the frozen teacher does. Its levels, squeezed into one embedding, are all that
a decoder student has to say the teacher's levels again. The first sees every detail, the second what a whole should be.
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
from lit_ad.methods.distances import cosine_distance
from lit_ad.methods.maps import gaussian_blur, upsample
from lit_ad.methods.reverse_distillation import Decoder, OneClassEmbedding, block_counts, check_sides, inner_share
from lit_ad.teachers import Backbone, Teacher


class DSKD(Method):
    """An encoder and a decoder student of any timm CNN.

    The paper's code and the weights of its terms were not found. Ours are: both students' losses count alike, the
    distances of each are summed over its levels, and the two maps are multiplied. Bottleneck, decoder, smoothing and
    optimiser are those of Reverse Distillation. The encoder's weights begin as timm draws them (see Backbone).

    Args:
        backbone: timm name with the tag of its weights; the paper's is ResNet-18.
        taps: Levels, as timm counts them, each of twice the stride before it: 1 to 3 are strides 4, 8 and 16.
        weights: The teacher's: hub, hf-hub:OWNER/REPO, pip:PACKAGE, or a file.
        view: How images become network inputs.
        fusion: Of both pyramids' maps: "product" or "sum".
        lr: Adam's learning rate.
        betas: Adam's.
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
        inner = inner_share(teacher)
        self.bottleneck = OneClassEmbedding(teacher.channels, inner).to(memory_format=torch.channels_last)
        self.decoder = Decoder(teacher.channels, inner, block_counts(teacher)).to(memory_format=torch.channels_last)
        self.fusion, self.lr, self.betas = fusion, lr, betas

    def compare(self, images: Tensor, features: list[Tensor]) -> "Disagreement":
        """Both students' distances from the teacher.

        Raises:
            UserError: H or W is no multiple of the embedding's stride.
        """
        check_sides(features[-1], self.teacher.strides[-1])
        encoded = self.encoder(images)
        decoded = self.decoder(self.bottleneck(encoded))
        pyramids = [
            [cosine_distance(t, s)[:, None] for t, s in zip(features, pyramid, strict=True)]
            for pyramid in (encoded, decoded)
        ]
        return Disagreement(pyramids[0], pyramids[1], (images.shape[-2], images.shape[-1]))

    def loss(self, disagreement: "Disagreement") -> Tensor:
        """One minus the cosine, mean over batch and positions, sum over levels and students."""
        return torch.stack([level.mean() for level in [*disagreement.encoder, *disagreement.decoder]]).sum()

    def detect(self, disagreement: "Disagreement") -> Prediction:
        """The pyramids' maps at the image's resolution, fused and smoothed: (B, 1, H, W)."""
        size = disagreement.size
        encoder, decoder = (
            torch.stack([upsample(level, size) for level in pyramid]).sum(dim=0) for pyramid in disagreement[:2]
        )
        return Prediction(
            gaussian_blur(encoder * decoder if self.fusion == "product" else encoder + decoder, sigma=4.0)
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        students = (self.encoder, self.bottleneck, self.decoder)
        parameters = [parameter for student in students for parameter in student.parameters()]
        return torch.optim.Adam(parameters, lr=self.lr, betas=self.betas)


class Disagreement(NamedTuple):
    """Cosine distances, L x (B, 1, h, w) of each student, and the input's size."""

    encoder: list[Tensor]
    decoder: list[Tensor]
    size: tuple[int, int]
