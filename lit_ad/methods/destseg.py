"""DeSTSeg: Segmentation Guided Denoising Student-Teacher for Anomaly Detection (Zhang et al., CVPR 2023),
https://arxiv.org/abs/2211.11317.

A student gets an image with a made-up defect, and learns the frozen teacher's features of the image without the
defect. Then a segmentation network learns to find the defect from the difference between teacher and student.
Shapes: B batch, L levels from fine to coarse, C channels, (h, w) feature map, (H, W) image.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import interpolate, logsigmoid, normalize
from torchvision.models.segmentation.deeplabv3 import ASPP

from lit_ad.batch import Others, Prediction
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods.base import Method
from lit_ad.methods.distances import measure_cosine_distance
from lit_ad.methods.initialisation import initialise_convolutions
from lit_ad.methods.network import eval_mode
from lit_ad.methods.restoration import at_least_float32
from lit_ad.methods.reverse_distillation import Block, check_levels, check_sides
from lit_ad.teachers import Backbone, Teacher

RATES = (6, 12, 18)  # dilations of the segmentation head's convolutions, as in DeepLabv3


class DeSTSeg(Method):
    """A denoising student of any timm CNN, and a segmentation network on top of it.

    Set data.corrupt; the paper's choice is lit_ad.data.Perlin. The student learns in the first steps, the segmentation
    network in the others; set trainer.max_steps, 5000 in the paper. Set `checkpoint.monitor: null` to keep the last
    step: held-out images have no defects, so a network that never finds any would look best.

    An image's score is the mean of the highest 100 pixels of a map of 256x256, and of the same fraction of other sizes.

    Args:
        backbone: timm name; the paper's is ResNet-18.
        taps: The teacher's feature levels, by timm's numbers: 1 to 3 have strides 4, 8 and 16. Each stride must be
            twice the one before. The student has one deeper level.
        weights: Source of the teacher's weights: hub, hf-hub:OWNER/REPO, pip:PACKAGE, or a file.
        view: How images become network inputs.
        student_share: Fraction of the training's steps in which the student learns, 1000 of 5000 in the paper.
        reduction: How the student's loss is reduced over a batch: "mean", or "sum" as in the authors' code.
        gamma: Exponent of the focal loss.
        dropout: Dropout before the segmentation network's last convolution, as in torchvision's DeepLabv3.
        lr: Learning rate of SGD for the student.
        segmentation_lr: Learning rate of SGD for the segmentation network's residual blocks.
        head_lr: Learning rate of SGD for its head: the dilated convolutions and the layers after them.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of SGD.
    """

    top = 100 / 256**2

    def __init__(
        self,
        backbone: str = "resnet18.tv_in1k",
        taps: Sequence[int] = (1, 2, 3),
        weights: str = "hub",
        view: View = View(256),
        student_share: float = 0.2,
        reduction: Literal["mean", "sum"] = "mean",
        gamma: float = 4.0,
        dropout: float = 0.5,
        lr: float = 0.4,
        segmentation_lr: float = 0.1,
        head_lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
    ) -> None:
        teacher = Teacher(backbone, taps, weights)
        super().__init__(view.of_multiple(2 * teacher.strides[-1]))  # the student's deepest stride
        self.teacher = teacher
        self.student = Student(backbone, taps).to(memory_format=torch.channels_last)
        self.segmentation = Segmentation(teacher.channels, dropout).to(memory_format=torch.channels_last)
        self.student_share, self.reduction, self.gamma = student_share, reduction, gamma
        self.lr, self.segmentation_lr, self.head_lr = lr, segmentation_lr, head_lr
        self.momentum, self.weight_decay = momentum, weight_decay
        self.student_steps = 0  # known when the optimizer is made

    def compare(self, images: Tensor, features: list[Tensor]) -> "Disagreement":
        """Run the student on the same images as the teacher, and segment their difference.

        Raises:
            UserError: H or W is not a multiple of the student's deepest stride.
        """
        check_sides(features[-1], self.teacher.strides[-1])
        students = self.student(images)
        return Disagreement(features, students, self.segmentation(features, students))

    def loss(self, disagreement: "Disagreement") -> Tensor:
        """Return the sum of both networks' losses on images without a defect, for validation: a scalar."""
        logits = disagreement.logits
        no_defect = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
        return compute_student_loss(disagreement.teachers, disagreement.students) + compute_segmentation_loss(
            logits, no_defect, self.gamma
        )

    def training_loss(self, images: Tensor, features: list[Tensor], others: Others) -> Tensor:
        """Return the student's loss in its steps, from features of corrupted and of clean images; afterwards, the
        segmentation network's loss.

        Raises:
            UserError: The data has no corrupted images, or the segmentation network gets a batch of one image.
        """
        if others.corrupted is None or others.corruption is None:
            raise UserError("DeSTSeg learns from made-up defects: set data.corrupt to lit_ad.data.Perlin")
        if self.is_student_step:
            loss = compute_student_loss(features, self.student(others.corrupted))
            if self.reduction == "sum":
                loss = loss * len(images) * count_processes()
        else:
            if len(images) * count_processes() == 1:
                raise UserError(
                    "BatchNorm in DeSTSeg's segmentation network needs two images in a batch: set data.batch_size to 2 "
                    "or more, and data.loading.drop_last to true if the last batch has one image"
                )
            with torch.no_grad(), eval_mode(self.student):
                teachers, students = self.describe(others.corrupted), self.student(others.corrupted)
            loss = compute_segmentation_loss(self.segmentation(teachers, students), others.corruption, self.gamma)
        if count_processes() > 1:  # DDP waits for a gradient of each parameter
            loss = loss + 0 * torch.stack([parameter.sum() for parameter in self.idle_network.parameters()]).sum()
        return loss

    @property
    def is_student_step(self) -> bool:
        """Whether the student learns in this step; otherwise the segmentation network does."""
        return self.global_step < self.student_steps

    @property
    def idle_network(self) -> nn.Module:
        """The network that does not learn in this step."""
        return self.segmentation if self.is_student_step else self.student

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Remove the idle network's gradients. SGD then skips its parameters, so weight decay does not change them."""
        for parameter in self.idle_network.parameters():
            parameter.grad = None

    def detect(self, disagreement: "Disagreement") -> Prediction:
        """Return the probability that a cell belongs to a defect, (B, 1, H / 4, W / 4)."""
        return Prediction(at_least_float32(disagreement.logits).sigmoid())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        steps = self.total_steps(why="student learns in a fraction of all steps")
        self.student_steps = int(self.student_share * steps)
        groups: list[dict[str, Any]] = [
            {"params": list(self.student.parameters()), "lr": self.lr},
            {"params": list(self.segmentation.blocks.parameters()), "lr": self.segmentation_lr},
            {"params": list(self.segmentation.head.parameters()), "lr": self.head_lr},
        ]
        return torch.optim.SGD(groups, momentum=self.momentum, weight_decay=self.weight_decay)


class Disagreement(NamedTuple):
    """The features of teacher and student, and the segmentation network's output for them."""

    teachers: list[Tensor]  # L x (B, C, h, w)
    students: list[Tensor]  # L x (B, C, h, w)
    logits: Tensor  # (B, 1, h, w), at the finest level's size


class Student(nn.Module):
    """An encoder with random weights, one level deeper than the teacher's, and a decoder back to the teacher's levels.

    Args:
        backbone: timm name.
        taps: The teacher's levels.

    Raises:
        UserError: A level does not have twice the stride of the one before.
    """

    def __init__(self, backbone: str, taps: Sequence[int]) -> None:
        super().__init__()
        self.encoder = Backbone(backbone, [*taps, taps[-1] + 1])
        check_levels("DeSTSeg, whose student goes one level further,", self.encoder)
        widths = self.encoder.channels[::-1]
        self.decoder = nn.ModuleList(
            nn.Sequential(Block(before, out, None), Block(out, out, None))
            for before, out in zip([widths[0], *widths], widths, strict=False)
        )
        initialise_convolutions(self.decoder)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> L x (B, C, h, w), from fine to coarse."""
        first, *others = self.decoder
        levels = [first(self.encoder(images)[-1])]
        for stage in others:
            levels.append(stage(interpolate(levels[-1], scale_factor=2.0, mode="bilinear")))
        return levels[:0:-1]


class Segmentation(nn.Module):
    """Segments defects from the difference between teacher and student.

    Args:
        channels: Channels of each level.
        dropout: Dropout before the last convolution.
        width: Channels of all hidden layers.
    """

    def __init__(self, channels: Sequence[int], dropout: float, width: int = 256) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(sum(channels), width, None), Block(width, width, None))
        initialise_convolutions(self.blocks)
        pyramid = ASPP(width, RATES, width)
        pyramid.project[-1].p = dropout
        self.head = nn.Sequential(pyramid, nn.Conv2d(width, 1, 1))

    def forward(self, teachers: list[Tensor], students: list[Tensor]) -> Tensor:
        """2 x L x (B, C, h, w) -> logits (B, 1, h, w) of the finest level's size."""
        logits: Tensor = self.head(self.blocks(join_products(teachers, students)))
        return logits


def join_products(teachers: list[Tensor], students: list[Tensor]) -> Tensor:
    """Multiply the unit vectors of teacher and student at each level, and join the negative products at the finest
    level's size: 2 x L x (B, C, h, w) -> (B, sum of C, h, w). A level's channels add up
    to minus the cosine of teacher and student."""
    pairs = [[normalize(at_least_float32(level)) for level in pair] for pair in zip(teachers, students, strict=True)]
    size = teachers[0].shape[-2:]
    products = [interpolate(-teacher * student, size, mode="bilinear") for teacher, student in pairs]
    return torch.cat(products, dim=1).to(students[0].dtype)


def compute_student_loss(teachers: list[Tensor], students: list[Tensor]) -> Tensor:
    """One minus the cosine, mean over batch and positions, sum over levels: 2 x L x (B, C, h, w) -> a scalar."""
    return torch.stack([measure_cosine_distance(t, s).mean() for t, s in zip(teachers, students, strict=True)]).sum()


def compute_segmentation_loss(logits: Tensor, corruption: Tensor, gamma: float) -> Tensor:
    """Return focal loss (Lin et al., ICCV 2017, without class weights) plus mean absolute error: a scalar.

    Args:
        logits: (B, 1, h, w).
        corruption: (B, 1, H, W) bool, resized to the logits' size. A cell of the logits is true if at least half of it
            is corrupted.
        gamma: Exponent of the focal loss.
    """
    logits = at_least_float32(logits)
    truth = interpolate(corruption.to(logits.dtype), logits.shape[-2:], mode="bilinear") >= 0.5
    true_logits = torch.where(truth, logits, -logits)  # the logit of the true class
    errors = (-true_logits).sigmoid()  # absolute error of the probability
    return (errors**gamma * -logsigmoid(true_logits)).mean() + errors.mean()


def count_processes() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
