"""Student-Teacher Feature Pyramid Matching (Wang et al., BMVC 2021), https://arxiv.org/abs/2103.04257.

An untrained twin learns the frozen teacher's features on nominal images and fails elsewhere.
Shapes: B batch, C channels, (H, W) image, (h, w) pyramid level.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lit_ad.batch import Prediction
from lit_ad.maps import product
from lit_ad.module import AnomalyModule
from lit_ad.teachers.backbone import Backbone, Teacher


class STFPM(AnomalyModule):
    """A pyramid student of any timm CNN.

    Args:
        backbone: timm name; the paper's is ResNet-18.
        taps: Pyramid levels, as timm counts them: 1 to 3 are strides 4, 8 and 16.
        weights: The teacher's: hub, hf-hub:OWNER/REPO, pip:PACKAGE, or a file.
        lr, momentum, weight_decay: SGD, section 4.1.
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        taps: Sequence[int] = (1, 2, 3),
        weights: str = "hub",
        lr: float = 0.4,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(Teacher(backbone, taps, weights))
        self.student = Backbone(backbone, taps)
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay

    def loss(self, images: Tensor, features: list[Tensor]) -> Tensor:
        """Sum over levels of the mean over batch and positions; without the paper's 1/2, as in the authors' code."""
        return torch.stack([level.mean() for level in self.distances(images, features)]).sum()

    def detect(self, images: Tensor, features: list[Tensor]) -> Prediction:
        """Product of the levels' distances at the finest level's resolution, as the authors evaluate (64 of 256)."""
        distances = self.distances(images, features)
        height, width = max(distance.shape[-2:] for distance in distances)
        anomaly_map = product(distances, (height, width))
        return Prediction(anomaly_map, self.score(anomaly_map))

    def distances(self, images: Tensor, features: list[Tensor]) -> list[Tensor]:
        """One (B, 1, h, w) per level."""
        return [unit_distance(t, s) for t, s in zip(features, self.student(images), strict=True)]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            self.student.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )


def unit_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Squared distance of unit feature vectors, in float32: 2 x (B, C, h, w) -> (B, 1, h, w)."""
    teacher, student = normalize(teacher.float()), normalize(student.float())
    return (teacher - student).square().sum(dim=1, keepdim=True)
