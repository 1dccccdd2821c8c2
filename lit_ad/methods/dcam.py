"""Attend, Distill, Detect: Attention-aware Entropy Distillation for Anomaly Detection (Jena et al.),
https://arxiv.org/abs/2405.06467. DCAM is its distributed convolutional attention module.

One student, an untrained copy of the teacher, learns all categories at once. In training, attention weighs the
student's channels, so that the student learns which channels describe which category. The loss has two terms: a cosine
compares the channels of a position, an entropy compares the positions of a channel. The detector runs without the
attention.
Shapes: B batch, L levels from fine to coarse, C channels, (h, w) feature map, n = h w positions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from lit_ad.batch import Prediction
from lit_ad.image.view import View
from lit_ad.methods.base import Method
from lit_ad.methods.distances import measure_cosine_distance
from lit_ad.methods.maps import upsample
from lit_ad.teachers import Backbone, Teacher

Pairs = list[tuple[Tensor, Tensor]]


class DCAM(Method):
    """A student of any timm CNN, with channel attention in training: the best of the paper's variants.

    The authors' public script trains another variant: the cosine over the positions of each channel, without attention
    and without entropy.

    Args:
        backbone: timm name with the tag of its weights; the authors' is ResNet-18.
        taps: Feature levels, by timm's numbers: 1 to 3 have strides 4, 8 and 16.
        weights: Source of the teacher's weights: hub, hf-hub:OWNER/REPO, pip:PACKAGE, or a file.
        view: How images become network inputs.
        temperature: Temperature of the softmax over positions. The paper does not give it; 1 is our choice.
        entropy: Weight of the entropy, which is a sum over channels and positions, while the cosine is a mean. The
            paper does not give this weight; our choice is about one over the number of channels.
        lr: Learning rate of SGD.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of SGD.
    """

    def __init__(
        self,
        backbone: str = "resnet18.tv_in1k",
        taps: Sequence[int] = (1, 2, 3),
        weights: str = "hub",
        view: View = View(256),
        temperature: float = 1.0,
        entropy: float = 0.01,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
    ) -> None:
        teacher = Teacher(backbone, taps, weights)
        super().__init__(view.of_multiple(teacher.patch_size))
        self.teacher = teacher
        self.student = Backbone(backbone, taps)
        self.attention = nn.ModuleList(ChannelAttention(count) for count in teacher.channels)
        self.temperature, self.entropy = temperature, entropy
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay

    def compare(self, images: Tensor, features: list[Tensor]) -> Pairs:
        """Return pairs of the teacher's and the student's levels, L x 2 x (B, C, h, w). In training, attention weighs
        the student's channels."""
        levels = self.student(images)
        if self.training:
            levels = [attention(level) for attention, level in zip(self.attention, levels, strict=True)]
        return list(zip(features, levels, strict=True))

    def loss(self, disagreement: Pairs) -> Tensor:
        """Return the cosine distance, mean over batch and positions, plus the weighted entropy, both summed over
        levels: a scalar."""
        cosine = torch.stack(
            [measure_cosine_distance(teacher, student).mean() for teacher, student in disagreement]
        ).sum()
        entropies = [measure_channel_entropy(teacher, student, self.temperature) for teacher, student in disagreement]
        return cosine + self.entropy * torch.stack(entropies).sum()

    def detect(self, disagreement: Pairs) -> Prediction:
        """Sum the levels' cosine distances at the finest level's resolution: (B, 1, h, w), 64x64 for 256x256 images."""
        height, width = max(teacher.shape[-2:] for teacher, _ in disagreement)
        levels = [measure_cosine_distance(teacher, student)[:, None] for teacher, student in disagreement]
        return Prediction(torch.stack([upsample(level, (height, width)) for level in levels]).sum(dim=0))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [*self.student.parameters(), *self.attention.parameters()]
        return torch.optim.SGD(trained, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)


class ChannelAttention(nn.Module):
    """CBAM's channel attention: weigh channels by their mean and maximum over positions, (B, C, h, w) -> same shape."""

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        layers = [nn.Linear(channels, hidden, bias=False), nn.ReLU(inplace=True)]
        self.shared = nn.Sequential(*layers, nn.Linear(hidden, channels, bias=False))

    def forward(self, level: Tensor) -> Tensor:
        weights = torch.sigmoid(self.shared(level.mean(dim=(2, 3))) + self.shared(level.amax(dim=(2, 3))))
        return level * weights[..., None, None]


def measure_channel_entropy(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) of each channel's softmax over positions, summed over channels and positions, mean over
    the batch: 2 x (B, C, h, w) -> a scalar, in float32 or float64."""
    dtype = torch.promote_types(teacher.dtype, torch.float32)
    expected, actual = (log_softmax(level.flatten(2).to(dtype) / temperature, dim=2) for level in (teacher, student))
    return kl_div(actual, expected, reduction="batchmean", log_target=True)
