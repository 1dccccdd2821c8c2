"""MixedTeacher: Knowledge Distillation for fast inference textural anomaly detection (Thomine et al., VISAPP 2023),
https://arxiv.org/abs/2306.09859.

Two pairs of teacher and student look at an image: a shallow one that sees textures finely, and a deep one that sees
context. A pixel is anomalous where both disagree. The pairs share nothing, and train as if each were alone.
Shapes: B batch, C channels, (H, W) image, (h, w) a level.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from timm.models.resnet import BasicBlock
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from lit_ad.batch import Prediction
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods.base import Method, Nominal
from lit_ad.methods.distances import unit_distance
from lit_ad.methods.initialisation import initialise_convolutions
from lit_ad.methods.maps import gaussian_blur, product, upsample
from lit_ad.methods.statistics import of_all_processes, refuse_unscaled
from lit_ad.teachers import Backbone, Teacher


class MixedTeacher(Method):
    """A reduced ResNet and a deep EfficientNet, each with a student.

    Differences from the authors' code:

    - Each pair's map is divided by its mean over nominal held-out images, so that their product weighs both alike. The
      authors scale by each test image's own values, which makes scores of different images incomparable.
    - The map is smoothed along both axes; theirs along one.
    - The deep student begins at random. Theirs begins as its teacher, and has nothing to learn.
    - One checkpoint holds both students, of the epoch with the lowest sum of both pairs' held-out losses. The authors
      keep each student at its own best epoch.
    - The students' BatchNorm learns in every epoch. Theirs is in eval mode after the first validation.
    - The loss is a mean over the batch; theirs is a sum.

    Args:
        backbone: timm name of the shallow teacher, a CNN; its levels are averaged over 2x2 positions.
        taps: Its levels, in a row; the first of stride 4.
        weights: The shallow teacher's: hub, hf-hub:OWNER/REPO, pip:PACKAGE, or a file.
        deep_backbone: timm name of the deep teacher; its levels are taken as they are.
        deep_taps: Its levels, in a row.
        deep_weights: The deep teacher's, as `weights`.
        view: How images become network inputs.
        lr: The highest of Adam's one-cycle schedule, reached after 30 % of the steps.
        sigma: Of the Gaussian that smooths the map, in pixels of the network's input.

    Raises:
        UserError: `taps` have other strides than 4, 8, ..., or `sigma` is not above 0.
    """

    pair_means: Tensor

    def __init__(
        self,
        backbone: str = "resnet18.tv_in1k",
        taps: Sequence[int] = (1, 2),
        weights: str = "hub",
        deep_backbone: str = "efficientnet_b0.ra_in1k",
        deep_taps: Sequence[int] = (3, 4),
        deep_weights: str = "hub",
        view: View = View(256),
        lr: float = 4e-3,
        sigma: float = 4.0,
    ) -> None:
        teacher, deep_teacher = Teacher(backbone, taps, weights), Teacher(deep_backbone, deep_taps, deep_weights)
        super().__init__(view.of_multiple(math.lcm(teacher.patch_size, deep_teacher.patch_size)))
        self.teacher, self.deep_teacher = teacher, deep_teacher
        expected = [4 * 2**level for level in range(len(teacher.strides))]
        if teacher.strides != expected:
            raise UserError(
                f"model.taps {list(teacher.taps)} of {backbone} have strides {teacher.strides}, but the reduced "
                f"student halves what it sees from level to level: choose taps of strides {expected}"
            )
        if not sigma > 0:
            raise UserError(f"model.sigma is {sigma}, but a Gaussian's must be above 0")
        self.student = ReducedResNet(teacher.channels).to(memory_format=torch.channels_last)
        self.deep_student = Backbone(deep_backbone, deep_taps)
        self.lr, self.sigma = lr, sigma
        self.register_buffer("pair_means", torch.full((2,), torch.nan))

    def describe(self, images: Tensor) -> list[Tensor]:
        """The shallow teacher's levels at half their resolution, then the deep one's."""
        return [*(avg_pool2d(level, 2, ceil_mode=True) for level in self.teacher(images)), *self.deep_teacher(images)]

    def compare(self, images: Tensor, features: list[Tensor]) -> "Disagreement":
        """Of each pair, the distances at its levels."""
        shallow = self.student(self.teacher.normalize(images))
        count = len(shallow)
        size = (images.shape[-2], images.shape[-1])
        return Disagreement(
            _half_distances(features[:count], shallow),
            _half_distances(features[count:], self.deep_student(images)),
            size,
        )

    def loss(self, disagreement: "Disagreement") -> Tensor:
        """The sum of both pairs' means over batch, positions and levels: a scalar."""
        means = [torch.stack([level.mean() for level in pair]).mean() for pair in disagreement[:2]]
        return means[0] + means[1]

    def detect(self, disagreement: "Disagreement") -> Prediction:
        """The product of both pairs' maps, each divided by its nominal mean, smoothed: (B, 1, H, W)."""
        maps = [m / mean for m, mean in zip(self.maps(disagreement), self.pair_means.float(), strict=True)]
        return Prediction(gaussian_blur(product(maps, disagreement.size), self.sigma))

    def maps(self, disagreement: "Disagreement") -> list[Tensor]:
        """Each pair's map at the input's size, 2 x (B, 1, H, W): the sum of its levels, each divided by its number of
        positions h * w, as in the authors' code, so that a level counts four times as much as the next finer one."""
        size = disagreement.size
        levels = [[level / level.shape[-2:].numel() for level in pair] for pair in disagreement[:2]]
        return [torch.stack([upsample(level, size) for level in pair]).sum(dim=0) for pair in levels]

    def calibrate(self, nominal: Nominal, held_out: Nominal) -> None:
        """The mean of each pair's map over the held-out images."""
        batches = [[m.double().mean(dim=(1, 2, 3)) for m in self.maps(self.compare(*seen))] for seen in held_out]
        for number in (0, 1):
            means = torch.cat([pair[number] for pair in batches]) if batches else self.pair_means.new_zeros(0).double()
            self.pair_means[number] = of_all_processes(means, self.device).mean()

    def on_test_start(self) -> None:
        refuse_unscaled("MixedTeacher", self.pair_means)

    on_predict_start = on_test_start

    def configure_optimizers(self) -> Any:
        """One cycle from lr / 25 up to lr and down to 4e-6 of it."""
        optimizer = torch.optim.Adam([*self.student.parameters(), *self.deep_student.parameters()], lr=self.lr)
        steps = self.total_steps("learning rate is of one cycle")
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}


def _half_distances(teacher: list[Tensor], student: list[Tensor]) -> list[Tensor]:
    """2 x L x (B, C, h, w) -> L x (B, 1, h, w)."""
    return [unit_distance(t, s) / 2 for t, s in zip(teacher, student, strict=True)]


class Disagreement(NamedTuple):
    """Half the squared distances of unit vectors, (B, 1, h, w) a level, float32; and the input's size."""

    shallow: list[Tensor]
    deep: list[Tensor]
    size: tuple[int, int]


class ReducedResNet(nn.Module):
    """Normalised images (B, 3, H, W) -> (B, C, h, w) of each level, from stride 8 on: a stem and one block a level."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        stem = [nn.Conv2d(3, channels[0], 7, 2, 3, bias=False), nn.BatchNorm2d(channels[0]), nn.ReLU(inplace=True)]
        self.stem = nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1))
        widths = [channels[0], *channels]
        self.levels = nn.ModuleList(_halving(a, b) for a, b in pairwise(widths))
        initialise_convolutions(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = [self.stem(images)]
        for level in self.levels:
            features.append(level(features[-1]))
        return features[1:]


def _halving(inputs: int, outputs: int) -> nn.Module:
    """A ResNet block of stride 2, (B, inputs, h, w) -> (B, outputs, h / 2, w / 2)."""
    skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs))
    return BasicBlock(inputs, outputs, stride=2, downsample=skip)
