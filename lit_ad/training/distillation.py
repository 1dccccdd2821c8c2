"""EfficientAD's teacher: a patch description network learns what a large network says of photographs (appendix of
https://arxiv.org/abs/2303.14535). A stage of its own, whose product is a file of weights.

Shapes: B batch, (H, W) image as the large network sees it, C = 384 outputs, (h, w) = (H / 8, W / 8).
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, avg_pool2d, interpolate, mse_loss, unfold
from torchmetrics import MeanMetric

from lit_ad.batch import Batch
from lit_ad.checkpoint import find_changed_arguments
from lit_ad.distributed import share_buffers
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods.base import Method, Nominal
from lit_ad.methods.network import as_images
from lit_ad.methods.statistics import Moments
from lit_ad.shared_mean import SharedMean
from lit_ad.teachers import Teacher
from lit_ad.teachers.pdn import PDN, PDNSize, normalize_imagenet


class Distillation(L.LightningModule):
    """A patch description network that learns what any timm CNN or ViT says of images twice the size.

    Args:
        backbone: timm name; the paper's is WideResNet-101, in torchvision's first weights.
        taps: Levels, as timm counts them; the paper's 2 and 3 are of strides 8 and 16.
        weights: The backbone's: hub, hf-hub:OWNER/REPO, pip:PACKAGE, or a file.
        size: The paper's S, "small", or M, "medium".
        width: Of all layers but the last, relative to the paper's. Narrower networks are ours, for a CPU.
        view: How images become the backbone's inputs; the network sees them at half the size.
        grey: Fraction of the images that are grey, for both.
        images: As many set mean and deviation of the backbone's channels, before the first step.
        lr: Adam's learning rate.
        weight_decay: Adam's.
    """

    logged = Method.logged
    target_mean: Tensor
    target_deviation: Tensor

    def __init__(
        self,
        backbone: str = "wide_resnet101_2.tv_in1k",
        taps: Sequence[int] = (2, 3),
        weights: str = "hub",
        size: PDNSize = "small",
        width: float = 1.0,
        view: View = View(512),
        grey: float = 0.1,
        images: int = 10_000,
        lr: float = 1e-4,
        weight_decay: float = 1e-5,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.teacher = Teacher(backbone, taps, weights)
        self.view = view.of_multiple(math.lcm(self.teacher.patch_size, 8))
        self.name, self.width, self.outputs = f"pdn_{size}", width, 384
        self.pdn = PDN(size, self.outputs, width, padding=True).to(memory_format=torch.channels_last)
        self.grey, self.images, self.lr, self.weight_decay = grey, images, lr, weight_decay
        self.register_buffer("target_mean", torch.zeros(self.outputs))
        self.register_buffer("target_deviation", torch.ones(self.outputs))
        self.train_loss = SharedMean()
        self.val_loss = MeanMetric()

    def describe(self, images: Tensor) -> list[Tensor]:
        """What there is to learn of images in [0, 1], before it is standardised: (B, 3, H, W) -> (B, C, h, w)."""
        return [joined(self.teacher(images), self.outputs, (images.shape[-2] // 8, images.shape[-1] // 8))]

    def loss(self, images: Tensor) -> Tensor:
        """Mean square error in units of each channel's deviation."""
        mean, deviation = (values.float().view(1, -1, 1, 1) for values in (self.target_mean, self.target_deviation))
        target = (self.describe(images)[0].float() - mean) / deviation
        return mse_loss(self.pdn(normalize_imagenet(avg_pool2d(images, 2))).float(), target)

    def prepare(self, nominal: Nominal) -> None:
        """Mean and deviation of the channels of the first `images` images."""
        moments, left = Moments(self.outputs, diagonal=True), math.ceil(self.images / self.trainer.world_size)
        for _, features in nominal:
            moments.update(features[0][:left].permute(0, 2, 3, 1).flatten(0, 2))
            left -= len(features[0])
            if left <= 0:
                break
        moments.reduce(self.device)
        self.target_mean.copy_(moments.mean)
        self.target_deviation.copy_(moments.variance().sqrt().clamp(min=1e-6))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        assert batch.pixels is not None
        images = as_images(batch.pixels)
        drawn = torch.rand(len(images), 1, 1, 1, device=images.device)
        grey = (images * images.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(dim=1, keepdim=True)
        loss = self.loss(torch.where(drawn < self.grey, grey, images))
        self.train_loss(loss.detach(), weight=len(batch))
        self.log("train/loss", self.train_loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        for part in batch.same_size_parts():
            assert part.pixels is not None
            self.val_loss.update(self.loss(as_images(part.pixels)), weight=len(part))

    def on_validation_start(self) -> None:
        share_buffers(self.trainer)

    def on_validation_epoch_end(self) -> None:
        """Log the loss: here, where a process without validation images is, too."""
        self.val_loss.update(0.0, weight=0.0)  # or torchmetrics warns of such a process
        self.log("val/loss", self.val_loss, prog_bar=True, batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.pdn.parameters(), lr=self.lr, weight_decay=self.weight_decay)

    # What is kept of it.

    def product(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The weights, and where they come from."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.pdn.state_dict().items()}
        about = {
            **{"network": self.name, "width": str(self.width), "backbone": self.teacher.name},
            **{"backbone_fingerprint": self.teacher.fingerprint, "taps": json.dumps(self.teacher.taps)},
            **{"view": json.dumps(self.view.to_dict()), "steps": str(self.trainer.global_step)},
        }
        return tensors, about

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["lit_ad"] = {"teacher": self.teacher.fingerprint}
        checkpoint["hyper_parameters"]["view"] = self.view.to_dict()  # plain values

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises UserError if it was the distillation of another network, or into another one."""
        trained = checkpoint.get("lit_ad", {}).get("teacher")
        if trained != self.teacher.fingerprint:
            raise UserError(
                f"this checkpoint distils a network with the weights {trained}, but the model has {self.teacher.name} "
                f"(weights {self.teacher.fingerprint}): give it the same backbone and weights as before"
            )
        changed = find_changed_arguments(checkpoint, self.hparams)
        for name in ("view", "taps", "size", "width", "images"):
            then = checkpoint["hyper_parameters"].get(name)
            if name in changed or (name == "view" and then != self.view.to_dict()):
                raise UserError(f"this checkpoint was trained with model.{name} {then}: leave it so, or train anew")


def joined(levels: list[Tensor], outputs: int, size: tuple[int, int]) -> Tensor:
    """The levels of a pyramid as one description of each position, L x (B, C_l, h_l, w_l) -> (B, outputs, *size).

    If their channels together are as many as `outputs`, they are taken as they are. Else, as in PatchCore, each level's
    patches of 3x3 are averaged to 1024 values, and those of all levels to `outputs`.
    """
    if sum(level.shape[1] for level in levels) == outputs:
        return torch.cat([resized(level, size) for level in levels], dim=1)
    return average(torch.cat([resized(average(patches(level), 1024), size) for level in levels], dim=1), outputs)


def resized(level: Tensor, size: tuple[int, int]) -> Tensor:
    return interpolate(level.float(), size=size, mode="bilinear")


def patches(level: Tensor) -> Tensor:
    """3x3 around each position, zeros outside: (B, C, h, w) -> (B, 9 C, h, w)."""
    patches: Tensor = unfold(level, 3, padding=1).unflatten(2, level.shape[-2:])
    return patches


def average(level: Tensor, outputs: int) -> Tensor:
    """Neighbouring channels averaged, (B, C, h, w) -> (B, outputs, h, w)."""
    vectors = level.flatten(2).transpose(1, 2)  # (B, h w, C)
    pooled: Tensor = adaptive_avg_pool1d(vectors, outputs).transpose(1, 2).unflatten(2, level.shape[-2:])
    return pooled
