"""Student-Teacher Feature Pyramid Matching (Wang et al., BMVC 2021), https://arxiv.org/abs/2103.04257.

A student, an untrained copy of the frozen teacher, learns the teacher's features on nominal images. On other
images, it fails.
Shapes: B batch, C channels, (H, W) image, (h, w) pyramid level.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_ad.batch import Prediction
from lit_ad.image.view import View
from lit_ad.methods.base import Method
from lit_ad.methods.distances import measure_unit_distance
from lit_ad.methods.maps import multiply_maps
from lit_ad.teachers import Backbone, Teacher


class STFPM(Method):
    """A pyramid student of any timm CNN. timm draws its initial weights (see Backbone).

    Args:
        backbone: timm name with the tag of its weights; the authors' are torchvision's ResNet-18.
        taps: Pyramid levels, by timm's numbers: 1 to 3 have strides 4, 8 and 16.
        weights: Source of the teacher's weights: hub, hf-hub:OWNER/REPO, pip:PACKAGE, or a file.
        view: How images become network inputs.
        lr: Learning rate of SGD. The defaults of lr, momentum and weight_decay are from section 4.1 of the paper.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of SGD.
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
        """Return the distance of teacher and student at each level, L x (B, 1, h, w)."""
        return [measure_unit_distance(t, s) for t, s in zip(features, self.student(images), strict=True)]

    def loss(self, disagreement: list[Tensor]) -> Tensor:
        """Return the sum over levels of the mean over batch and positions: a scalar. The paper's factor 1/2 is left
        out, as in the authors' code."""
        return torch.stack([level.mean() for level in disagreement]).sum()

    def detect(self, disagreement: list[Tensor]) -> Prediction:
        """Multiply the levels' distances at the finest level's resolution, as the authors' code does: (B, 1, h, w),
        64x64 for images of 256x256."""
        height, width = max(distance.shape[-2:] for distance in disagreement)
        return Prediction(multiply_maps(disagreement, (height, width)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            self.student.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
