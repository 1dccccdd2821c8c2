"""EfficientAD: Accurate Visual Anomaly Detection at Millisecond-Level Latencies (Batzner et al., WACV 2024),
https://arxiv.org/abs/2303.14535.

A student imitates a small patch network on nominal patches, and fails on others; an autoencoder imitates it through a
bottleneck that sees the whole image, so that nominal parts in a wrong arrangement are noticed as well.
Shapes: B batch, C = 384 channels of the teacher, (H, W) image, (h, w) = (H / 4 - 8, W / 4 - 8) its unpadded map.
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
from lit_ad.methods.maps import quantile
from lit_ad.methods.statistics import Moments, of_all_processes, refuse_unscaled
from lit_ad.teachers.pdn import PDN, PDNSize, PDNTeacher

LEAST = 256  # pixels a side that the autoencoder's bottleneck needs


class EfficientAD(Method):
    """A student and an autoencoder of a patch description network.

    It wants `data.unrelated`: other images, on which the student must not imitate the teacher. The last step is kept,
    as in the paper, by `checkpoint.monitor: null`.

    An image's score is the maximum of the map at the network's size. The reference code takes it at the image's own
    size, where it is 0.2 to 1.5 % higher.

    Args:
        weights: The teacher's: a file of `lit-ad distill`, or a published one.
        size: The paper's S, "small", or M, "medium".
        width: Of all hidden layers, relative to the paper's. Narrower networks are ours, for a CPU.
        view: How images become network inputs; 256 pixels a side or more.
        hard: Quantile of the teacher-student errors from which on they count.
        jitter: Brightness, contrast or saturation of the autoencoder's images change by up to this factor.
        dropout: In the autoencoder's decoder.
        lr: Adam's learning rate, which falls to a tenth after 95 % of the steps.
        weight_decay: Adam's.
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
        check_sides((part, part) if part else view.size or (LEAST, LEAST))
        super().__init__(view.of_multiple(4))
        self.teacher = PDNTeacher(weights, size, width=width)
        channels = self.teacher.channels[0]
        self.student = PDN(size, 2 * channels, width).to(memory_format=torch.channels_last)
        self.autoencoder = Autoencoder(channels, width, dropout).to(memory_format=torch.channels_last)
        self.hard, self.jitter, self.lr, self.weight_decay = hard, jitter, lr, weight_decay
        self.register_buffer("teacher_mean", torch.zeros(channels))
        self.register_buffer("teacher_deviation", torch.ones(channels))
        self.register_buffer("quantiles", torch.full((2, 2), torch.nan))  # of both maps: 0.9 and 0.995

    def compare(self, images: Tensor, features: list[Tensor]) -> "Disagreement":
        """Of the three networks on one image, without jitter."""
        teacher, normalized = self.standardised(features), self.teacher.normalize(images)
        imitation, forecast = self.student(normalized).float().chunk(2, dim=1)
        restored = self.autoencoder(normalized).float()
        return Disagreement(
            (teacher - imitation).square(), (teacher - restored).square(), (restored - forecast).square()
        )

    def loss(self, disagreement: "Disagreement") -> Tensor:
        """That of training but for the unrelated images."""
        student, autoencoder, both = disagreement
        return hardest(student, self.hard) + autoencoder.mean() + both.mean()

    def training_loss(self, images: Tensor, features: list[Tensor], others: Others) -> Tensor:
        """Hard patches of the student, the penalty on unrelated images, and both terms of the autoencoder, which see
        the same jittered images."""
        half = len(self.teacher_mean)  # of the student's outputs, each term wants one: a quarter less to compute
        imitation = _some_outputs(self.student, self.teacher.normalize(images), slice(half)).float()
        loss = hardest((self.standardised(features) - imitation).square(), self.hard, all_processes=True)
        if others.unrelated is not None:
            other = _some_outputs(self.student, self.teacher.normalize(others.unrelated), slice(half))
            loss = loss + other.float().square().mean()
        jittered = jitter(images, self.jitter)
        normalized = self.teacher.normalize(jittered)
        restored = self.autoencoder(normalized).float()
        forecast = _some_outputs(self.student, normalized, slice(half, None)).float()
        teacher = self.standardised(self.describe(jittered))
        total: Tensor = loss + (teacher - restored).square().mean() + (restored - forecast).square().mean()
        return total

    def detect(self, disagreement: "Disagreement") -> Prediction:
        """Mean of both normalised maps, padded by zeros where patches would leave the image: (B, 1, H / 4, W / 4).

        A padded cell is what the teacher says of the 4x4 pixels there, as it learned in its distillation.
        """
        standard = [standardise(m, *q) for m, q in zip(self.maps(disagreement), self.quantiles, strict=True)]
        return Prediction(pad((standard[0] + standard[1]) / 2, (4, 4, 4, 4)))

    def maps(self, disagreement: "Disagreement") -> list[Tensor]:
        """Errors of the student in the teacher and in the autoencoder, mean over channels: 2 x (B, 1, h, w)."""
        return [errors.mean(dim=1, keepdim=True) for errors in (disagreement.student, disagreement.both)]

    def standardised(self, features: list[Tensor]) -> Tensor:
        """The teacher's output by the mean and deviation of nominal images, (B, C, h, w) in float32."""
        mean, deviation = (values.float().view(1, -1, 1, 1) for values in (self.teacher_mean, self.teacher_deviation))
        return (features[0].float() - mean) / deviation

    def prepare(self, nominal: Nominal) -> None:
        """Mean and deviation of each of the teacher's channels."""
        moments = Moments(len(self.teacher_mean), diagonal=True)
        for _, features in nominal:
            moments.update(features[0].permute(0, 2, 3, 1).flatten(0, 2))
        moments.reduce(self.device)
        self.teacher_mean.copy_(moments.mean)
        self.teacher_deviation.copy_(moments.variance().sqrt().clamp(min=1e-6))

    def calibrate(self, nominal: Nominal, held_out: Nominal) -> None:
        """The quantiles of both maps over all held-out images."""
        by_map: list[list[Tensor]] = [[], []]
        for images, features in held_out:
            for values, anomaly_map in zip(by_map, self.maps(self.compare(images, features)), strict=True):
                values.append(anomaly_map.flatten())
        for number, values in enumerate(by_map):
            everywhere = of_all_processes(torch.cat(values) if values else self.quantiles.new_zeros(0), self.device)
            low, high = (quantile(everywhere[None], fraction) for fraction in (0.9, 0.995))
            self.quantiles[number] = torch.cat([low, high])

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch.unrelated is None and self.trainer.global_step == 0:
            rank_zero_warn(
                "EfficientAD trains without unrelated images, and its student will imitate the teacher on defects more "
                "than in the paper: give data.unrelated a folder of photographs, such as ImageNet's"
            )

    def on_test_start(self) -> None:
        refuse_unscaled("EfficientAD", self.quantiles)

    on_predict_start = on_test_start

    def configure_optimizers(self) -> Any:
        trained = [*self.student.parameters(), *self.autoencoder.parameters()]
        optimizer = torch.optim.Adam(trained, lr=self.lr, weight_decay=self.weight_decay)
        steps = self.total_steps("learning rate falls near the end")
        drop = torch.optim.lr_scheduler.MultiStepLR(optimizer, [int(0.95 * steps)], gamma=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": drop, "interval": "step"}}


class Disagreement(NamedTuple):
    """Squared errors, (B, C, h, w) float32 each."""

    student: Tensor  # of the student's first half in the teacher
    autoencoder: Tensor  # of the autoencoder in the teacher
    both: Tensor  # of the student's second half in the autoencoder


class Autoencoder(nn.Module):
    """Normalised images (B, 3, H, W) -> what the teacher says of them, (B, C, H / 4 - 8, W / 4 - 8), through vectors of
    64 that each see at least 256x256 pixels."""

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
        *steps, last = zip(*map(_decoder_sizes, sides), strict=True)
        values = self.encoder(images)
        for step, layer in zip(steps, self.decoder, strict=True):
            values = layer(interpolate(values, size=step, mode="bilinear"))
        restored: Tensor = self.head(interpolate(values, size=last, mode="bilinear"))
        return restored


def check_sides(sides: tuple[int, int]) -> None:
    """Raises UserError where the network would see less than the autoencoder can."""
    if min(sides) < LEAST:
        raise UserError(
            f"EfficientAD's autoencoder needs {LEAST} pixels a side or more, not {sides[0]}x{sides[1]}: set "
            "model.view.image_size, or crop or tile"
        )


def _decoder_sizes(side: int) -> list[int]:
    """Of the decoder's steps, each before its convolution: 3, 8, 15, 32, 63, 127 and 56 of an image of 256."""
    return [side // 64 - 1, side // 32, side // 16 - 1, side // 8, side // 4 - 1, side // 2 - 1, -(-side // 4) - 8]


def _some_outputs(network: PDN, images: Tensor, outputs: slice) -> Tensor:
    """Some channels of what a network says, without computing the others: (B, 3, H, W) -> (B, outputs, h, w)."""
    *hidden, last = network
    for layer in hidden:
        images = layer(images)
    weight, bias = last.parameters()
    return conv2d(images, weight[outputs], bias[outputs])


def hardest(errors: Tensor, fraction: float, all_processes: bool = False) -> Tensor:
    """Mean of the errors (B, C, h, w) that reach their quantile: a scalar.

    By a count, since older versions of torch.quantile refuse more than 2^24 values. Those that equal the quantile are
    all in it, as in the authors' code: in float32, there are such ties every few steps. With `all_processes`, each adds
    its share of the hardest of all batches together, so that the mean over processes is that of one large batch.
    """
    values = errors.flatten()
    processes = dist.get_world_size() if all_processes and dist.is_available() and dist.is_initialized() else 1
    total = processes * len(values)
    count = total - math.ceil(fraction * (total - 1))
    top = values.detach().topk(min(count, len(values)), sorted=False).values
    if processes == 1:
        return values[values >= top.min()].mean()
    least = of_all_processes(top, top.device).topk(count, sorted=False).values.min()
    hard = values[values >= least]
    number = of_all_processes(hard.new_tensor([len(hard)]), hard.device).sum()
    return hard.sum() * (processes / number)


def standardise(anomaly_map: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Between two quantiles of nominal maps lies 0.1; equal ones do not divide by zero."""
    return 0.1 * (anomaly_map - low) / (high - low).clamp(min=1e-6)


def jitter(images: Tensor, most: float) -> Tensor:
    """One of brightness, contrast and saturation of each image, times 1 - most to 1 + most: (B, 3, H, W) in [0, 1].

    The paper does so before it shrinks the image, which is the same but for rounding: all three are linear.
    """
    drawn = torch.rand(2, len(images), 1, 1, 1, device=images.device)
    factor, choice = 1 + most * (2 * drawn[0] - 1), (3 * drawn[1]).long()
    grey = (images * images.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(dim=1, keepdim=True)
    level = torch.where(choice == 0, torch.zeros_like(grey), torch.where(choice == 1, grey.mean((2, 3), True), grey))
    return (level + factor * (images - level)).clamp(0, 1)
