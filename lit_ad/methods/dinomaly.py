"""Dinomaly: The Less Is More Philosophy in Multi-Class Unsupervised Anomaly Detection (Guo et al., CVPR 2025),
https://arxiv.org/abs/2405.14325; recentring, squeezing and a constant rate come from Dinomaly2,
https://arxiv.org/abs/2510.17611.

A bottleneck with dropout and a decoder with linear attention restore a frozen ViT's middle tokens. Three things keep
the decoder from copying anomalies: the noise of the dropout, an attention that cannot focus, and a loose target. The
target is the mean of a group of blocks, and patches that are restored well hardly train.
Shapes: B batch, N = h * w patches, P class and register tokens, D token width, (H, W) image.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, layer_norm

from lit_ad.batch import Others, Prediction
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods.base import Method
from lit_ad.methods.initialisation import initialise_linear_layers
from lit_ad.methods.restoration import (
    GroupedTokens,
    at_least_float32,
    compute_restoration_loss,
    gather_batches,
    group_outputs,
    make_mlp,
    make_restoration_map,
    make_stable_adamw,
    measure_distance,
    warm_up_and_fall,
    weigh_gradients,
)


class Dinomaly(Method):
    """A decoder for the tokens of any plain timm ViT. It needs no pixels once features are cached.

    The schedule of the learning rate spans the whole training: set trainer.max_steps, 10 000 steps in the paper.
    configs/multiclass_dinomaly2.yaml has the recipe of Dinomaly2.

    Two differences from the authors' code. An image's score is taken after its map is resized to the network's size; it
    is 0.04 to 0.4 % lower than their score, which is taken at 256 pixels. timm resizes position embeddings with
    antialiasing, as DINOv2's authors do, but not Dinomaly's.

    Args:
        backbone: timm name; the paper's is DINOv2 ViT-B/14 with registers.
        weights: Source of the teacher's weights: hub, hf-hub:OWNER/REPO, or a file.
        view: How images become network inputs. The paper's tables crop 392 of 448, View(448, crop=392).
        blocks: Indices of the teacher's blocks to restore, from 0, an even number: the mean of the early half is one
            target, the mean of the late half the other. None: eight from a sixth to three quarters of the depth, 2 to 9
            of 12.
        recentre: Subtract the class token from the patches, and normalise them, before they are compared (Dinomaly2),
            for one model of many categories.
        squeeze: Channels of a linear layer before the bottleneck, 256 in Dinomaly2. None: no such layer.
        dropout: Dropout in the bottleneck; 0.4 in Dinomaly2, and for as many categories as Real-IAD has.
        easy: Fraction of a batch's patches with a smaller gradient: those that are restored best.
        easy_weight: Factor of the gradient of these patches.
        ramp: Steps in which the fraction of these patches grows from 0 to `easy`.
        lr: The highest learning rate.
        final_lr: Learning rate of the last step; the rate falls to it by a cosine. If it equals `lr`, the rate is
            constant, and training needs no last step.
        warmup: Steps in which the rate rises from 0 to `lr`.
        squeeze_lr: Highest learning rate of the squeezing layer; it follows the same schedule.
        eps: Epsilon in the denominator of StableAdamW; the authors train single categories with 1e-8.
        weight_decay: Weight decay of StableAdamW.
        amsgrad: Keep the second moment of StableAdamW from falling.
        clip: The largest norm of a step's gradient; trainer.gradient_clip_val overrides it.
    """

    needs_pixels = False
    top = 0.01

    def __init__(
        self,
        backbone: str = "vit_base_patch14_reg4_dinov2.lvd142m",
        weights: str = "hub",
        view: View = View(392),
        blocks: Sequence[int] | None = None,
        recentre: bool = False,
        squeeze: int | None = None,
        dropout: float = 0.2,
        easy: float = 0.9,
        easy_weight: float = 0.1,
        ramp: int = 1000,
        lr: float = 2e-3,
        final_lr: float = 2e-4,
        warmup: int = 100,
        squeeze_lr: float = 2e-4,
        eps: float = 1e-10,
        weight_decay: float = 1e-4,
        amsgrad: bool = True,
        clip: float = 0.1,
    ) -> None:
        teacher = GroupedTokens(backbone, blocks, weights)
        if recentre and getattr(teacher.model, "cls_token", None) is None:
            raise UserError(f"model.recentre takes a class token, and {backbone} has none")
        super().__init__(view.of_multiple(teacher.patch_size))
        self.teacher: GroupedTokens = teacher
        if not recentre:
            teacher.warn_of_middle_blocks("set model.recentre true, or take")
        width = teacher.width
        self.squeeze = nn.Identity() if squeeze is None else nn.Linear(width, squeeze)
        self.bottleneck = make_mlp(width, dropout, squeeze)
        self.decoder = nn.ModuleList(DecoderBlock(width, teacher.heads) for _ in teacher.taps)
        for part in (self.squeeze, self.bottleneck, self.decoder):
            initialise_linear_layers(part)
        self.recentre, self.easy, self.easy_weight, self.ramp = recentre, easy, easy_weight, ramp
        self.lr, self.final_lr, self.warmup, self.squeeze_lr = lr, final_lr, warmup, squeeze_lr
        self.eps, self.weight_decay, self.amsgrad, self.clip = eps, weight_decay, amsgrad, clip

    def compare(self, images: Tensor | None, features: list[Tensor]) -> "Disagreement":
        """Restore the two groups' patches from the mean of both."""
        early, late = features
        mean = (early + late) / 2  # of all blocks
        tokens = self.bottleneck(self.squeeze(mean)).to(early.dtype)
        outputs = []
        for block in self.decoder:
            tokens = block(tokens)
            outputs.append(tokens)
        students = [self.drop_prefix(group) for group in group_outputs(outputs)]
        size = None if images is None else (images.shape[-2], images.shape[-1])
        return Disagreement([self.make_target(level) for level in features], students, size)

    def make_target(self, tokens: Tensor) -> Tensor:
        """Return the patches that the decoder must restore for a group, (B, P + N, D) -> (B, N, D)."""
        patches = self.drop_prefix(tokens)
        if self.recentre:  # 1e-8: the authors' epsilon
            patches = layer_norm(patches - tokens[:, :1].to(patches.dtype), patches.shape[-1:], eps=1e-8)
        return patches

    def drop_prefix(self, tokens: Tensor) -> Tensor:
        """Drop class and register tokens, (B, P + N, D) -> (B, N, D) in float32 or float64."""
        return at_least_float32(tokens[:, self.teacher.model.num_prefix_tokens :])

    def loss(self, disagreement: "Disagreement") -> Tensor:
        """Return one minus the cosine of an image's patches as one vector, mean over images and groups: a scalar."""
        return compute_restoration_loss(disagreement.teachers, disagreement.students)

    def training_loss(self, images: Tensor, features: list[Tensor], others: Others) -> Tensor:
        """Return the same loss. Patches that are restored best have a smaller gradient: see `easy`."""
        disagreement = self.compare(images, features)
        share = self.easy * min(1.0, self.global_step / self.ramp)
        for teacher, student in zip(disagreement.teachers, disagreement.students, strict=True):
            weights = weigh_patches(measure_distance(teacher, student).detach(), share, self.easy_weight)
            weigh_gradients(student, weights)
        return self.loss(disagreement)

    def detect(self, disagreement: "Disagreement") -> Prediction:
        """Average, resize and smooth the groups' distances: (B, 1, h, w). See `make_restoration_map`."""
        teachers, students, size = disagreement
        assert size is not None
        return Prediction(make_restoration_map(teachers, students, size, self.teacher.patch_size))

    def configure_optimizers(self) -> Any:
        groups: list[dict[str, Any]] = [{"params": [*self.bottleneck.parameters(), *self.decoder.parameters()]}]
        if isinstance(self.squeeze, nn.Linear):
            groups.append({"params": list(self.squeeze.parameters()), "lr": self.squeeze_lr})
        optimizer = make_stable_adamw(groups, self.lr, self.eps, self.weight_decay, self.amsgrad)
        constant = self.final_lr == self.lr
        steps = self.warmup if constant else self.total_steps(why="learning rate falls until training ends")
        return warm_up_and_fall(optimizer, steps, self.warmup, self.final_lr / self.lr)


class Disagreement(NamedTuple):
    """The teacher's and the decoder's patches for the early and the late group."""

    teachers: list[Tensor]  # 2 x (B, N, D)
    students: list[Tensor]  # 2 x (B, N, D)
    size: tuple[int, int] | None  # (H, W); None if only cached features are given


class DecoderBlock(nn.Module):
    """A pre-norm transformer block with linear attention, (B, P + N, D) -> the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width, eps=1e-8), LinearAttention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-8), make_mlp(width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens))
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class LinearAttention(nn.Module):
    """Attention by phi(q) phi(k)^T with phi(x) = elu(x) + 1 instead of the softmax (Katharopoulos et al., ICML 2020),
    (B, N, D) -> the same. It cannot focus on single patches, and so passes on less local detail."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        qkv = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        with torch.autocast(tokens.device.type, enabled=False):
            q, k, v = at_least_float32(qkv).unbind(0)  # (B, heads, N, d)
            q, k = elu(q) + 1, elu(k) + 1
            context = k.transpose(2, 3) @ v  # (B, heads, d, d)
            total = q @ k.sum(dim=2)[..., None]  # (B, heads, N, 1)
            attended = (q @ context / (total + 1e-6)).transpose(1, 2).flatten(2)
        out: Tensor = self.projection(attended.to(tokens.dtype))
        return out


def weigh_patches(distances: Tensor, share: float, weight: float) -> Tensor:
    """Return `weight` for the `share` of patches with the lowest distances, over the batches of all processes, and 1
    for the others: (B, N) -> the same shape."""
    everywhere = gather_batches(distances)
    hardest = everywhere.topk(max(1, int(len(everywhere) * (1 - share))), sorted=False).values
    return torch.where(distances < hardest.min(), weight, 1.0)
