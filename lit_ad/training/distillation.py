"""Train EfficientAD's teacher: a patch description network learns the features of a large network on photographs
(appendix of https://arxiv.org/abs/2303.14535). The result is a file of weights for EfficientAD.

Shapes: B batch, (H, W) input of the large network, C = 384 outputs, (h, w) = (H / 8, W / 8).
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
    """Distils any timm CNN or ViT, the backbone, into a patch description network, which sees images at half the size.

    Args:
        backbone: timm name; the paper's is WideResNet-101 with torchvision's first weights.
        taps: Feature levels of the backbone, by timm's numbers; the paper's 2 and 3 have strides 8 and 16.
        weights: Source of the backbone's weights: hub, hf-hub:OWNER/REPO, pip:PACKAGE, or a file.
        size: The paper's network S, "small", or M, "medium".
        width: Width of all layers but the last, relative to the paper's. Values below 1 are our addition, for CPUs.
        view: How images become the backbone's inputs. The patch description network sees them at half the size.
        grey: Fraction of the images that both networks see in grey.
        images: Number of images for the mean and deviation of the backbone's channels, before the first step.
        lr: Learning rate of Adam.
        weight_decay: Weight decay of Adam.
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
        """Return the backbone's features of images in [0, 1], not yet standardised: (B, 3, H, W) -> (B, C, h, w)."""
        return [join_levels(self.teacher(images), self.outputs, (images.shape[-2] // 8, images.shape[-1] // 8))]

    def loss(self, images: Tensor) -> Tensor:
        """Return the mean square error in units of each channel's deviation, (B, 3, H, W) -> a scalar."""
        mean, deviation = (values.float().view(1, -1, 1, 1) for values in (self.target_mean, self.target_deviation))
        target = (self.describe(images)[0].float() - mean) / deviation
        return mse_loss(self.pdn(normalize_imagenet(avg_pool2d(images, 2))).float(), target)

    def prepare(self, nominal: Nominal) -> None:
        """Compute mean and deviation of the backbone's channels on the first `images` images."""
        moments, remaining = Moments(self.outputs, diagonal=True), math.ceil(self.images / self.trainer.world_size)
        for _, features in nominal:
            moments.update(features[0][:remaining].permute(0, 2, 3, 1).flatten(0, 2))
            remaining -= len(features[0])
            if remaining <= 0:
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
        """Log the loss here, and not in a step: a process without validation images runs no step."""
        self.val_loss.update(0.0, weight=0.0)  # torchmetrics warns of a metric that was never updated
        self.log("val/loss", self.val_loss, prog_bar=True, batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.pdn.parameters(), lr=self.lr, weight_decay=self.weight_decay)

    # The result, and checkpoints.

    def export_weights(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return the weights of the patch description network, and metadata that says how they were made."""
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
        """Check the checkpoint. Raises UserError if it distils another backbone, or has other arguments of the
        model."""
        trained = checkpoint.get("lit_ad", {}).get("teacher")
        if trained != self.teacher.fingerprint:
            raise UserError(
                f"this checkpoint distils a network with the weights {trained}, but the model has {self.teacher.name} "
                f"(weights {self.teacher.fingerprint}): give model.backbone and model.weights as before"
            )
        changed = find_changed_arguments(checkpoint, self.hparams)
        for name in ("view", "taps", "size", "width", "images"):
            then = checkpoint["hyper_parameters"].get(name)
            if name in changed or (name == "view" and then != self.view.to_dict()):
                raise UserError(f"this checkpoint was trained with model.{name} {then}: give that, or train anew")


def join_levels(levels: list[Tensor], outputs: int, size: tuple[int, int]) -> Tensor:
    """Join the levels of a pyramid to one vector for each position, L x (B, C_l, h_l, w_l) -> (B, outputs, *size).

    If the levels together have `outputs` channels, they are only resized. Otherwise, as in PatchCore, each level's 3x3
    patches are averaged to 1024 values, and the joined levels to `outputs` values.
    """
    if sum(level.shape[1] for level in levels) == outputs:
        return torch.cat([_resize(level, size) for level in levels], dim=1)
    pooled = [_resize(average_channels(cut_patches(level), 1024), size) for level in levels]
    return average_channels(torch.cat(pooled, dim=1), outputs)


def _resize(level: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a level bilinearly, (B, C, h, w) -> (B, C, *size) float32."""
    return interpolate(level.float(), size=size, mode="bilinear")


def cut_patches(level: Tensor) -> Tensor:
    """Stack the 3x3 values around each position, with zeros outside: (B, C, h, w) -> (B, 9 C, h, w)."""
    patches: Tensor = unfold(level, 3, padding=1).unflatten(2, level.shape[-2:])
    return patches


def average_channels(level: Tensor, outputs: int) -> Tensor:
    """Average neighbouring channels, (B, C, h, w) -> (B, outputs, h, w)."""
    vectors = level.flatten(2).transpose(1, 2)  # (B, h w, C)
    pooled: Tensor = adaptive_avg_pool1d(vectors, outputs).transpose(1, 2).unflatten(2, level.shape[-2:])
    return pooled
