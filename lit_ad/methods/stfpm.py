"""Student-Teacher Feature Pyramid Matching (Wang et al., BMVC 2021), https://arxiv.org/abs/2103.04257.

An untrained twin learns the frozen teacher's features on nominal images and fails elsewhere.
Shapes: B batch, C channels, (H, W) image, (h, w) pyramid level.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_ad.batch import Prediction
from lit_ad.image.view import View
from lit_ad.methods.base import Method
from lit_ad.methods.distances import unit_distance
from lit_ad.methods.maps import product
from lit_ad.teachers import Backbone, Teacher


class STFPM(Method):
    """A pyramid student of any timm CNN, whose weights begin as timm draws them (see Backbone).

    Args:
        backbone: timm name with the tag of its weights; the authors' are torchvision's ResNet-18.
        taps: Pyramid levels, as timm counts them: 1 to 3 are strides 4, 8 and 16.
        weights: The teacher's: hub, hf-hub:OWNER/REPO, pip:PACKAGE, or a file.
        view: How images become network inputs.
        lr: SGD's learning rate; section 4.1 of the paper has all three.
        momentum: SGD's.
        weight_decay: SGD's.
    """

    def __init__(
        self,
        backbone: str = "resnet18.tv_in1k",
        taps: Sequence[int] = (1, 2, 3),
        weights: str = "hub",
        view: View = View(256),
        lr: float = 0.4,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
    ) -> None:
        teacher = Teacher(backbone, taps, weights)
        super().__init__(view.of_multiple(teacher.patch_size))
        self.teacher = teacher
        self.student = Backbone(backbone, taps)
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay

    def compare(self, images: Tensor, features: list[Tensor]) -> list[Tensor]:
        """The levels' distances, L x (B, 1, h, w)."""
        return [unit_distance(t, s) for t, s in zip(features, self.student(images), strict=True)]

    def loss(self, disagreement: list[Tensor]) -> Tensor:
        """Sum over levels of the mean over batch and positions; without the paper's 1/2, as in the authors' code."""
        return torch.stack([level.mean() for level in disagreement]).sum()

    def detect(self, disagreement: list[Tensor]) -> Prediction:
        """Product of the levels' distances at the finest level's resolution, as the authors' code (64 of 256)."""
        height, width = max(distance.shape[-2:] for distance in disagreement)
        return Prediction(product(disagreement, (height, width)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            self.student.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
