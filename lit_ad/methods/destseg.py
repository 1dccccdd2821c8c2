"""DeSTSeg: Segmentation Guided Denoising Student-Teacher for Anomaly Detection (Zhang et al., CVPR 2023),
https://arxiv.org/abs/2211.11317.

A student sees an image with a made-up defect, and learns to say what the frozen teacher says of the image without it.
Then a segmentation network learns, from where the two differ, to find the defect.
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
from lit_ad.methods.distances import cosine_distance
from lit_ad.methods.initialisation import initialise_convolutions
from lit_ad.methods.network import eval_mode
from lit_ad.methods.restoration import at_least_float32
from lit_ad.methods.reverse_distillation import Block, check_levels, check_sides
from lit_ad.teachers import Backbone, Teacher

RATES = (6, 12, 18)  # of the dilated convolutions, as in DeepLabv3


class DeSTSeg(Method):
    """A denoising student of any timm CNN, and a segmentation network on top of it.

    It needs data.corrupt, lit_ad.data.Perlin as the paper has it. The student learns in the first steps, the
    segmentation network in the others: trainer.max_steps says how many there are, 5000 in the paper. The last step is
    to be kept, by `checkpoint.monitor: null`: an empty map is the best on nominal held-out images.

    An image's score is the mean of the highest 100 pixels of a map of 256x256, and of as large a part of others.

    Args:
        backbone: timm name; the paper's is ResNet-18.
        taps: The teacher's levels, each of twice the stride before it: 1 to 3 are strides 4, 8 and 16. The student goes
            one level further down.
        weights: The teacher's: hub, hf-hub:OWNER/REPO, pip:PACKAGE, or a file.
        view: How images become network inputs.
        student_share: Part of the training's steps in which the student learns, 1000 of 5000 in the paper.
        reduction: Of the student's loss over a batch: "mean", or "sum" as in the authors' code.
        gamma: Of the focal loss.
        dropout: Before the segmentation network's last convolution, as DeepLabv3 has it in torchvision.
        lr: SGD's, of the student.
        segmentation_lr: Of the segmentation network's residual blocks.
        head_lr: Of its dilated convolutions and what follows them.
        momentum: SGD's.
        weight_decay: SGD's.
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
        """Raises UserError if H or W is no multiple of the student's deepest stride."""
        check_sides(features[-1], self.teacher.strides[-1])
        students = self.student(images)
        return Disagreement(features, students, self.segmentation(features, students))

    def loss(self, disagreement: "Disagreement") -> Tensor:
        """Of both networks on images without a defect, for validation."""
        logits = disagreement.logits
        nothing = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
        return student_loss(disagreement.teachers, disagreement.students) + segmentation_loss(
            logits, nothing, self.gamma
        )

    def training_loss(self, images: Tensor, features: list[Tensor], others: Others) -> Tensor:
        """The student's on corrupted images against features of clean ones; after its steps, the segmentation's.

        Raises:
            UserError: The data has no corrupted images, or the segmentation network gets one image alone.
        """
        if others.corrupted is None or others.corruption is None:
            raise UserError("DeSTSeg learns from made-up defects: set data.corrupt to lit_ad.data.Perlin")
        if self.learns_student:
            loss = student_loss(features, self.student(others.corrupted))
            if self.reduction == "sum":
                loss = loss * len(images) * count_processes()
        else:
            if len(images) * count_processes() == 1:
                raise UserError(
                    "DeSTSeg's segmentation network takes BatchNorm's statistics over images: set data.batch_size to 2 "
                    "or more, and data.loading.drop_last to true where one image is left over"
                )
            with torch.no_grad(), eval_mode(self.student):
                teachers, students = self.describe(others.corrupted), self.student(others.corrupted)
            loss = segmentation_loss(self.segmentation(teachers, students), others.corruption, self.gamma)
        if count_processes() > 1:  # DDP waits for a gradient of each parameter
            loss = loss + 0 * torch.stack([parameter.sum() for parameter in self.idle.parameters()]).sum()
        return loss

    @property
    def learns_student(self) -> bool:
        """Whether this step is one of the student's."""
        return self.global_step < self.student_steps

    @property
    def idle(self) -> nn.Module:
        """The network that does not learn in this step."""
        return self.segmentation if self.learns_student else self.student

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Without a gradient, SGD leaves a parameter and its momentum as they are: no weight decay moves it either."""
        for parameter in self.idle.parameters():
            parameter.grad = None

    def detect(self, disagreement: "Disagreement") -> Prediction:
        """How likely each cell is a part of a defect, (B, 1, H / 4, W / 4)."""
        return Prediction(at_least_float32(disagreement.logits).sigmoid())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        self.student_steps = int(self.student_share * self.total_steps("student has its part of the training's steps"))
        groups: list[dict[str, Any]] = [
            {"params": list(self.student.parameters()), "lr": self.lr},
            {"params": list(self.segmentation.blocks.parameters()), "lr": self.segmentation_lr},
            {"params": list(self.segmentation.head.parameters()), "lr": self.head_lr},
        ]
        return torch.optim.SGD(groups, momentum=self.momentum, weight_decay=self.weight_decay)


class Disagreement(NamedTuple):
    """What teacher and student say of an image, and what the segmentation network makes of it."""

    teachers: list[Tensor]  # L x (B, C, h, w)
    students: list[Tensor]  # L x (B, C, h, w)
    logits: Tensor  # (B, 1, h, w) of the finest level


class Student(nn.Module):
    """A random encoder, one level deeper than the teacher's, and a decoder back to the teacher's levels.

    Args:
        backbone: timm name.
        taps: The teacher's.
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
    """Finds a defect by where teacher and student differ.

    Args:
        channels: Of the levels.
        dropout: See DeSTSeg.
        width: Of all hidden layers.
    """

    def __init__(self, channels: Sequence[int], dropout: float, width: int = 256) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(sum(channels), width, None), Block(width, width, None))
        initialise_convolutions(self.blocks)
        pyramid = ASPP(width, RATES, width)
        pyramid.project[-1].p = dropout
        self.head = nn.Sequential(pyramid, nn.Conv2d(width, 1, 1))

    def forward(self, teachers: list[Tensor], students: list[Tensor]) -> Tensor:
        """2 x L x (B, C, h, w) -> logits (B, 1, h, w) of the finest level."""
        logits: Tensor = self.head(self.blocks(join_products(teachers, students)))
        return logits


def join_products(teachers: list[Tensor], students: list[Tensor]) -> Tensor:
    """Minus the product of the unit vectors of each level, all at the finest size: 2 x L x (B, C, h, w) -> (B, sum of
    C, h, w). A point's channels sum to minus its cosine."""
    pairs = [[normalize(at_least_float32(level)) for level in pair] for pair in zip(teachers, students, strict=True)]
    size = teachers[0].shape[-2:]
    products = [interpolate(-teacher * student, size, mode="bilinear") for teacher, student in pairs]
    return torch.cat(products, dim=1).to(students[0].dtype)


def student_loss(teachers: list[Tensor], students: list[Tensor]) -> Tensor:
    """One minus the cosine, mean over batch and positions, sum over levels: 2 x L x (B, C, h, w) -> a scalar."""
    return torch.stack([cosine_distance(t, s).mean() for t, s in zip(teachers, students, strict=True)]).sum()


def segmentation_loss(logits: Tensor, corruption: Tensor, gamma: float) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017, without weights of classes) and mean absolute error: a scalar.

    Args:
        logits: (B, 1, h, w).
        corruption: (B, 1, H, W) bool, which is shrunk to the logits' size, and true where at least half of it is.
        gamma: Of the focal loss.
    """
    logits = at_least_float32(logits)
    truth = interpolate(corruption.to(logits.dtype), logits.shape[-2:], mode="bilinear") >= 0.5
    right = torch.where(truth, logits, -logits)  # the logit of what is true
    wrong = (-right).sigmoid()  # also the absolute error
    return (wrong**gamma * -logsigmoid(right)).mean() + wrong.mean()


def count_processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
