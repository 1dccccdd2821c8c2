"""EfficientAD: Accurate Visual Anomaly Detection at Millisecond-Level Latencies (Batzner et al., WACV 2024),
https://arxiv.org/abs/2303.14535.

The teacher is a small patch network. A student imitates it on nominal patches, and fails on others. An autoencoder
imitates it through a bottleneck that sees the whole image, and fails where nominal parts are in a wrong arrangement.
Shapes: B batch, C = 384 channels of the teacher, (H, W) image, (h, w) = (H / 4 - 8, W / 4 - 8) unpadded map.
"""

import math
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, pad

from lit_ad.batch import Others, Prediction
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods.base import Method, Nominal
from lit_ad.methods.maps import interpolate_quantile
from lit_ad.methods.statistics import Moments, gather_values, refuse_unscaled
from lit_ad.teachers.pdn import PDN, PDNSize, PDNTeacher

_MIN_SIDE = 256  # smallest side in pixels that the autoencoder's bottleneck can see


class EfficientAD(Method):
    """A student and an autoencoder that imitate a patch description network.

    Set `data.unrelated` to a folder of other images, on which the student must not imitate the teacher. Set
    `checkpoint.monitor: null` to keep the last step, as in the paper.

    An image's score is the maximum of the map at the network's size. The reference code takes it at the image's own
    size, where it is 0.2 to 1.5 % higher.

    Args:
        weights: File of the teacher's weights, written by `lit-ad distill` or published.
        size: The paper's network S, "small", or M, "medium".
        width: Width of all hidden layers, relative to the paper's. Values below 1 are our addition, for CPUs.
        view: How images become network inputs; sides of at least 256 pixels.
        hard: The student's loss is the mean of the errors above this quantile.
        jitter: For the autoencoder, an image's brightness, contrast or saturation changes by a factor between 1 -
            jitter and 1 + jitter.
        dropout: Dropout in the autoencoder's decoder.
        lr: Learning rate of Adam. It falls to a tenth after 95 % of the steps.
        weight_decay: Weight decay of Adam.
    """

    quantiles: Tensor
    teacher_mean: Tensor
    teacher_deviation: Tensor

    def __init__(
        self,
        weights: str,
        size: PDNSize = "small",
        width: float = 1.0,
        view: View = View(256),
        hard: float = 0.999,
        jitter: float = 0.2,
        dropout: float = 0.2,
        lr: float = 1e-4,
        weight_decay: float = 1e-5,
    ) -> None:
        part = view.tile or view.crop
        check_sides((part, part) if part else view.size or (_MIN_SIDE, _MIN_SIDE))
        super().__init__(view.of_multiple(4))
        self.teacher = PDNTeacher(weights, size, width=width)
        channels = self.teacher.channels[0]
        self.student = PDN(size, 2 * channels, width).to(memory_format=torch.channels_last)
        self.autoencoder = Autoencoder(channels, width, dropout).to(memory_format=torch.channels_last)
        self.hard, self.jitter, self.lr, self.weight_decay = hard, jitter, lr, weight_decay
        self.register_buffer("teacher_mean", torch.zeros(channels))
        self.register_buffer("teacher_deviation", torch.ones(channels))
        self.register_buffer("quantiles", torch.full((2, 2), torch.nan))  # of each map: 0.9 and 0.995; NaN: unknown

    def compare(self, images: Tensor, features: list[Tensor]) -> "Disagreement":
        """Compare teacher, student and autoencoder on the same images, without jitter."""
        teacher, normalized = self.standardise_features(features), self.teacher.normalize(images)
        imitation, predicted_autoencoder = self.student(normalized).float().chunk(2, dim=1)
        restored = self.autoencoder(normalized).float()
        return Disagreement(
            (teacher - imitation).square(),
            (teacher - restored).square(),
            (restored - predicted_autoencoder).square(),
        )

    def loss(self, disagreement: "Disagreement") -> Tensor:
        """Return the loss of training without the term of the unrelated images: a scalar."""
        student, autoencoder, student_autoencoder = disagreement
        return average_hardest(student, self.hard) + autoencoder.mean() + student_autoencoder.mean()

    def training_loss(self, images: Tensor, features: list[Tensor], others: Others) -> Tensor:
        """Sum the student's loss on hard patches, its penalty on unrelated images, and the two terms of the
        autoencoder, which use the same jittered images."""
        half = len(self.teacher_mean)  # each term computes only its half of the student's outputs: saves a quarter
        imitation = _compute_outputs(self.student, self.teacher.normalize(images), slice(half)).float()
        loss = average_hardest(
            (self.standardise_features(features) - imitation).square(), self.hard, all_processes=True
        )
        if others.unrelated is not None:
            other = _compute_outputs(self.student, self.teacher.normalize(others.unrelated), slice(half))
            loss = loss + other.float().square().mean()
        jittered = jitter(images, self.jitter)
        normalized = self.teacher.normalize(jittered)
        restored = self.autoencoder(normalized).float()
        predicted_autoencoder = _compute_outputs(self.student, normalized, slice(half, None)).float()
        teacher = self.standardise_features(self.describe(jittered))
        loss = loss + (teacher - restored).square().mean()
        total: Tensor = loss + (restored - predicted_autoencoder).square().mean()
        return total

    def detect(self, disagreement: "Disagreement") -> Prediction:
        """Average both scaled maps, and pad zeros where patches would leave the image: (B, 1, H / 4, W / 4).

        A cell of the padded map stands for 4x4 pixels of the image, as the teacher learned in its distillation.
        """
        scaled = [scale_map(m, *q) for m, q in zip(self.make_maps(disagreement), self.quantiles, strict=True)]
        return Prediction(pad((scaled[0] + scaled[1]) / 2, (4, 4, 4, 4)))

    def make_maps(self, disagreement: "Disagreement") -> list[Tensor]:
        """Return the student's errors in predicting the teacher and the autoencoder, mean over channels:
        2 x (B, 1, h, w)."""
        return [errors.mean(dim=1, keepdim=True) for errors in (disagreement.student, disagreement.student_autoencoder)]

    def standardise_features(self, features: list[Tensor]) -> Tensor:
        """Scale the teacher's output to mean 0 and deviation 1 on nominal images: (B, C, h, w) in float32."""
        mean, deviation = (values.float().view(1, -1, 1, 1) for values in (self.teacher_mean, self.teacher_deviation))
        return (features[0].float() - mean) / deviation

    def prepare(self, nominal: Nominal) -> None:
        """Compute mean and standard deviation of each of the teacher's channels."""
        moments = Moments(len(self.teacher_mean), diagonal=True)
        for _, features in nominal:
            moments.update(features[0].permute(0, 2, 3, 1).flatten(0, 2))
        moments.reduce(self.device)
        self.teacher_mean.copy_(moments.mean)
        self.teacher_deviation.copy_(moments.variance().sqrt().clamp(min=1e-6))

    def calibrate(self, nominal: Nominal, held_out: Nominal) -> None:
        """Compute the quantiles of both maps over all held-out images."""
        by_map: list[list[Tensor]] = [[], []]
        for images, features in held_out:
            for values, anomaly_map in zip(by_map, self.make_maps(self.compare(images, features)), strict=True):
                values.append(anomaly_map.flatten())
        for number, values in enumerate(by_map):
            all_values = gather_values(torch.cat(values) if values else self.quantiles.new_zeros(0), self.device)
            low, high = (interpolate_quantile(all_values[None], fraction) for fraction in (0.9, 0.995))
            self.quantiles[number] = torch.cat([low, high])

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch.unrelated is None and self.trainer.global_step == 0:
            rank_zero_warn(
                "EfficientAD trains without unrelated images, so that its student imitates the teacher on defects more "
                "than in the paper: give data.unrelated a folder of photographs, such as ImageNet's"
            )

    def on_test_start(self) -> None:
        refuse_unscaled("EfficientAD", self.quantiles)

    on_predict_start = on_test_start

    def configure_optimizers(self) -> Any:
        trained = [*self.student.parameters(), *self.autoencoder.parameters()]
        optimizer = torch.optim.Adam(trained, lr=self.lr, weight_decay=self.weight_decay)
        steps = self.total_steps(why="learning rate falls near the end")
        drop = torch.optim.lr_scheduler.MultiStepLR(optimizer, [int(0.95 * steps)], gamma=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": drop, "interval": "step"}}


class Disagreement(NamedTuple):
    """Squared differences, (B, C, h, w) float32 each."""

    student: Tensor  # between the teacher and the student's first half of channels
    autoencoder: Tensor  # between the teacher and the autoencoder
    student_autoencoder: Tensor  # between the autoencoder and the student's second half of channels


class Autoencoder(nn.Module):
    """Predicts the teacher's features: normalised images (B, 3, H, W) -> (B, C, H / 4 - 8, W / 4 - 8). The bottleneck
    has vectors of 64 channels, each of which sees at least 256x256 pixels."""

    def __init__(self, channels: int, width: float = 1.0, dropout: float = 0.2) -> None:
        super().__init__()
        narrow, wide = (max(1, round(width * hidden)) for hidden in (32, 64))
        steps = [3, narrow, narrow, wide, wide, wide]
        down: list[nn.Module] = []
        for inner, outer in pairwise(steps):
            down += [nn.Conv2d(inner, outer, 4, stride=2, padding=1), nn.ReLU()]
        self.encoder = nn.Sequential(*down, nn.Conv2d(wide, wide, 8))
        self.decoder = nn.ModuleList(
            nn.Sequential(nn.Conv2d(wide, wide, 4, padding=2), nn.ReLU(), nn.Dropout(dropout)) for _ in range(6)
        )
        self.head = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1), nn.ReLU(), nn.Conv2d(wide, channels, 3, padding=1)
        )

    def forward(self, images: Tensor) -> Tensor:
        sides = images.shape[-2:]
        check_sides((sides[0], sides[1]))
        *steps, last = zip(*map(_list_decoder_sizes, sides), strict=True)
        values = self.encoder(images)
        for step, layer in zip(steps, self.decoder, strict=True):
            values = layer(interpolate(values, size=step, mode="bilinear"))
        restored: Tensor = self.head(interpolate(values, size=last, mode="bilinear"))
        return restored


def check_sides(sides: tuple[int, int]) -> None:
    """Raise UserError if an image, crop or tile of these sides is too small for the autoencoder."""
    if min(sides) < _MIN_SIDE:
        raise UserError(
            f"EfficientAD's autoencoder needs {_MIN_SIDE} pixels a side or more, not {sides[0]}x{sides[1]}: set "
            "model.view.image_size, or model.view.crop or model.view.tile if you use them"
        )


def _list_decoder_sizes(side: int) -> list[int]:
    """Return the size before each convolution of the decoder: 3, 8, 15, 32, 63, 127 and 56 for an image of 256."""
    return [side // 64 - 1, side // 32, side // 16 - 1, side // 8, side // 4 - 1, side // 2 - 1, -(-side // 4) - 8]


def _compute_outputs(network: PDN, images: Tensor, outputs: slice) -> Tensor:
    """Compute some output channels of a network, without the others: (B, 3, H, W) -> (B, outputs, h, w)."""
    *hidden, last = network
    for layer in hidden:
        images = layer(images)
    weight, bias = last.parameters()
    return conv2d(images, weight[outputs], bias[outputs])


def average_hardest(errors: Tensor, fraction: float, all_processes: bool = False) -> Tensor:
    """Return the mean of the errors (B, C, h, w) that reach their quantile `fraction`: a scalar.

    topk finds the quantile, because older versions of torch.quantile refuse more than 2^24 values. All errors that
    equal the quantile are included, as in the authors' code; in float32 such ties come every few steps.

    Args:
        errors: (B, C, h, w).
        fraction: The quantile, in [0, 1].
        all_processes: Take the quantile over the batches of all processes. The mean of the processes' results is then
            the loss of one large batch.
    """
    values = errors.flatten()
    processes = dist.get_world_size() if all_processes and dist.is_available() and dist.is_initialized() else 1
    total = processes * len(values)
    count = total - math.ceil(fraction * (total - 1))
    top = values.detach().topk(min(count, len(values)), sorted=False).values
    if processes == 1:
        return values[values >= top.min()].mean()
    least = gather_values(top, top.device).topk(count, sorted=False).values.min()
    hard = values[values >= least]
    number = gather_values(hard.new_tensor([len(hard)]), hard.device).sum()
    return hard.sum() * (processes / number)


def scale_map(anomaly_map: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Scale a map so that the quantiles `low` and `high` of nominal maps become 0 and 0.1: the same shape. Their
    difference is at least 1e-6, to avoid a division by zero."""
    return 0.1 * (anomaly_map - low) / (high - low).clamp(min=1e-6)


def jitter(images: Tensor, most: float) -> Tensor:
    """Multiply brightness, contrast or saturation of each image, one at random, by a factor between 1 - most and
    1 + most: (B, 3, H, W) in [0, 1] -> the same shape.

    The paper changes the image before it is resized. The result differs by rounding only, because all three are linear.
    """
    drawn = torch.rand(2, len(images), 1, 1, 1, device=images.device)
    factor, choice = 1 + most * (2 * drawn[0] - 1), (3 * drawn[1]).long()
    grey = (images * images.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(dim=1, keepdim=True)
    level = torch.where(choice == 0, torch.zeros_like(grey), torch.where(choice == 1, grey.mean((2, 3), True), grey))
    return (level + factor * (images - level)).clamp(0, 1)
