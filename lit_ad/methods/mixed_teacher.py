"""MixedTeacher: Knowledge Distillation for fast inference textural anomaly detection (Thomine et al., VISAPP 2023),
https://arxiv.org/abs/2306.09859.

Two pairs of teacher and student look at an image: the shallow pair sees fine texture, the deep pair sees context. A
pixel is anomalous if both pairs disagree there. The pairs share nothing; neither changes the other's training.
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
from lit_ad.methods.distances import measure_unit_distance
from lit_ad.methods.initialisation import initialise_convolutions
from lit_ad.methods.maps import multiply_maps, smooth_map, upsample
from lit_ad.methods.statistics import gather_values, refuse_unscaled
from lit_ad.teachers import Backbone, Teacher


class MixedTeacher(Method):
    """A reduced ResNet and a deep EfficientNet, each with a student.

    Differences from the authors' code:

    - Each pair's map is divided by its mean over nominal held-out images, so that both have the same weight in their
      product. The authors scale by each test image's own values, which makes scores of different images incomparable.
    - The map is smoothed along both axes; theirs along one.
    - The deep student's initial weights are random. Theirs are the teacher's, so that it has nothing to learn.
    - One checkpoint holds both students, from the epoch with the lowest sum of both pairs' held-out losses. The authors
      keep each student from its own best epoch.
    - The students' BatchNorm learns in every epoch. Theirs is in eval mode after the first validation.
    - The loss is a mean over the batch; theirs is a sum.

    Args:
        backbone: timm name of the shallow teacher, a CNN. Its levels are averaged over 2x2 positions.
        taps: Levels of the shallow teacher, consecutive, by timm's numbers; the first must have stride 4.
        weights: Source of the shallow teacher's weights: hub, hf-hub:OWNER/REPO, pip:PACKAGE, or a file.
        deep_backbone: timm name of the deep teacher. Its levels are not averaged.
        deep_taps: Levels of the deep teacher, consecutive, by timm's numbers.
        deep_weights: Source of the deep teacher's weights, as `weights`.
        view: How images become network inputs.
        lr: Highest learning rate of Adam's one-cycle schedule, reached after 30 % of the steps.
        sigma: Standard deviation of the Gaussian that smooths the map, in pixels of the network's input.

    Raises:
        UserError: The strides of `taps` are not 4, 8, ..., or `sigma` is not above 0.
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
                f"model.taps {list(teacher.taps)} of {backbone} have strides {teacher.strides}, but each level of the "
                f"student has twice the stride of the one before: choose taps of strides {expected}"
            )
        if not sigma > 0:
            raise UserError(f"model.sigma is {sigma}, but the width of a Gaussian must be above 0")
        self.student = ReducedResNet(teacher.channels).to(memory_format=torch.channels_last)
        self.deep_student = Backbone(deep_backbone, deep_taps)
        self.lr, self.sigma = lr, sigma
        self.register_buffer("pair_means", torch.full((2,), torch.nan))

    def describe(self, images: Tensor) -> list[Tensor]:
        """Return the shallow teacher's levels at half their resolution, then the deep teacher's: L x (B, C, h, w)."""
        return [*(avg_pool2d(level, 2, ceil_mode=True) for level in self.teacher(images)), *self.deep_teacher(images)]

    def compare(self, images: Tensor, features: list[Tensor]) -> "Disagreement":
        """Return each pair's distances at its levels."""
        shallow = self.student(self.teacher.normalize(images))
        count = len(shallow)
        size = (images.shape[-2], images.shape[-1])
        return Disagreement(
            _measure_half_distances(features[:count], shallow),
            _measure_half_distances(features[count:], self.deep_student(images)),
            size,
        )

    def loss(self, disagreement: "Disagreement") -> Tensor:
        """Average the distances of each pair over batch, positions and levels, and add both means: a scalar."""
        means = [torch.stack([level.mean() for level in pair]).mean() for pair in disagreement[:2]]
        return means[0] + means[1]

    def detect(self, disagreement: "Disagreement") -> Prediction:
        """Divide each pair's map by its nominal mean, multiply both, and smooth the product: (B, 1, H, W)."""
        maps = [m / mean for m, mean in zip(self.make_maps(disagreement), self.pair_means.float(), strict=True)]
        return Prediction(smooth_map(multiply_maps(maps, disagreement.size), self.sigma))

    def make_maps(self, disagreement: "Disagreement") -> list[Tensor]:
        """Return each pair's map at the input's size, 2 x (B, 1, H, W): the sum of its levels, each divided by its
        number of positions h * w, as in the authors' code. A level weighs four times as much as the next finer one."""
        size = disagreement.size
        levels = [[level / level.shape[-2:].numel() for level in pair] for pair in disagreement[:2]]
        return [torch.stack([upsample(level, size) for level in pair]).sum(dim=0) for pair in levels]

    def calibrate(self, nominal: Nominal, held_out: Nominal) -> None:
        """Compute the mean of each pair's map over the held-out images."""
        batches = [[m.double().mean(dim=(1, 2, 3)) for m in self.make_maps(self.compare(*batch))] for batch in held_out]
        for number in (0, 1):
            means = torch.cat([pair[number] for pair in batches]) if batches else self.pair_means.new_zeros(0).double()
            self.pair_means[number] = gather_values(means, self.device).mean()

    def on_test_start(self) -> None:
        refuse_unscaled("MixedTeacher", self.pair_means)

    on_predict_start = on_test_start

    def configure_optimizers(self) -> Any:
        """Return Adam with a one-cycle schedule: from lr / 25 up to lr, then down to 4e-6 lr."""
        optimizer = torch.optim.Adam([*self.student.parameters(), *self.deep_student.parameters()], lr=self.lr)
        steps = self.total_steps(why="learning rate rises and falls once")
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}


def _measure_half_distances(teacher: list[Tensor], student: list[Tensor]) -> list[Tensor]:
    """Return half the squared distance between unit vectors at each level, 2 x L x (B, C, h, w) -> L x (B, 1, h, w)."""
    return [measure_unit_distance(t, s) / 2 for t, s in zip(teacher, student, strict=True)]


class Disagreement(NamedTuple):
    """Half the squared distances between unit vectors at each pair's levels, and the size of the network's input."""

    shallow: list[Tensor]  # L x (B, 1, h, w) float32
    deep: list[Tensor]  # L x (B, 1, h, w) float32
    size: tuple[int, int]  # (H, W)


class ReducedResNet(nn.Module):
    """The shallow student, a stem and one block for each level: normalised images (B, 3, H, W) -> L x (B, C, h, w), the
    first at stride 8."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        stem = [nn.Conv2d(3, channels[0], 7, 2, 3, bias=False), nn.BatchNorm2d(channels[0]), nn.ReLU(inplace=True)]
        self.stem = nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1))
        widths = [channels[0], *channels]
        self.levels = nn.ModuleList(_make_halving_block(a, b) for a, b in pairwise(widths))
        initialise_convolutions(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = [self.stem(images)]
        for level in self.levels:
            features.append(level(features[-1]))
        return features[1:]


def _make_halving_block(inputs: int, outputs: int) -> nn.Module:
    """Make a ResNet block of stride 2, (B, inputs, h, w) -> (B, outputs, h / 2, w / 2)."""
    skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs))
    return BasicBlock(inputs, outputs, stride=2, downsample=skip)
