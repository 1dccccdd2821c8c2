"""Dinomaly: The Less Is More Philosophy in Multi-Class Unsupervised Anomaly Detection (Guo et al., CVPR 2025),
https://arxiv.org/abs/2405.14325; recentring, squeezing and a constant rate are of Dinomaly2,
https://arxiv.org/abs/2510.17611.

A bottleneck full of dropout and a decoder of blocks with linear attention restore a frozen ViT's middle tokens. All of
it keeps the decoder from copying what it has not learned: noise, attention that cannot focus, and a loose target, the
means of groups of blocks, of which training drops the patches that are restored already.
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
    distance,
    gather_processes,
    group_outputs,
    mlp,
    restoration_loss,
    restoration_map,
    stable_adamw,
    warm_up_and_fall,
    weigh_gradients,
)


class Dinomaly(Method):
    """A decoder of the tokens of any plain timm ViT. It needs no pixels once features are cached.

    The learning rate follows the whole training: trainer.max_steps says how long that is, 10 000 steps in the paper.
    configs/multiclass_dinomaly2.yaml has the recipe of Dinomaly2.
    An image's score is taken after its map is resized to the network's size, 0.04 to 0.4 % lower than the authors' at
    256. timm resizes position embeddings with antialiasing, as DINOv2's authors do and Dinomaly's do not.

    Args:
        backbone: timm name; the paper's is DINOv2 ViT-B/14 with registers.
        weights: The teacher's: hub, hf-hub:OWNER/REPO, or a file.
        view: How images become network inputs. The paper's tables crop 392 of 448, View(448, crop=392).
        blocks: The teacher's that are restored, from 0, an even number of them: the early half is one target, the
            late half the other. None: eight from a sixth to three quarters of its depth, 2 to 9 of 12.
        recentre: Compare patches as they differ from the class token, normalised (Dinomaly2): for many categories.
        squeeze: Channels to which the bottleneck squeezes a token first, 256 in Dinomaly2. None: it does not.
        dropout: In the bottleneck; 0.4 for as many categories as Real-IAD has, and in Dinomaly2.
        easy: The share of a batch's patches, those that are restored best, whose gradient is made smaller.
        easy_weight: The factor of their gradient.
        ramp: Steps in which the share grows from 0 to `easy`.
        lr: The highest learning rate.
        final_lr: The learning rate of the last step, to which it falls by a cosine. Where it is `lr`, the rate stays,
            and training needs no end.
        warmup: Steps in which it rises from 0 to `lr`.
        squeeze_lr: That of the squeezing layer, which rises and falls with the others'.
        eps: StableAdamW's; the authors train single categories with 1e-8.
        weight_decay: StableAdamW's.
        amsgrad: StableAdamW's: the second moment never falls.
        clip: The largest norm of a step's gradient, unless trainer.gradient_clip_val says another.
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
        self.bottleneck = mlp(width, dropout, squeeze)
        self.decoder = nn.ModuleList(DecoderBlock(width, teacher.heads) for _ in teacher.taps)
        for part in (self.squeeze, self.bottleneck, self.decoder):
            initialise_linear_layers(part)
        self.recentre, self.easy, self.easy_weight, self.ramp = recentre, easy, easy_weight, ramp
        self.lr, self.final_lr, self.warmup, self.squeeze_lr = lr, final_lr, warmup, squeeze_lr
        self.eps, self.weight_decay, self.amsgrad, self.clip = eps, weight_decay, amsgrad, clip

    def compare(self, images: Tensor | None, features: list[Tensor]) -> "Disagreement":
        early, late = features
        mean = (early + late) / 2  # of all blocks
        tokens = self.bottleneck(self.squeeze(mean)).to(early.dtype)
        outputs = []
        for block in self.decoder:
            tokens = block(tokens)
            outputs.append(tokens)
        students = [self.patches(group) for group in group_outputs(outputs)]
        size = None if images is None else (images.shape[-2], images.shape[-1])
        return Disagreement([self.target(level) for level in features], students, size)

    def target(self, tokens: Tensor) -> Tensor:
        """What a group is to be restored to, (B, P + N, D) -> (B, N, D)."""
        patches = self.patches(tokens)
        if self.recentre:  # 1e-8: the authors' epsilon
            patches = layer_norm(patches - tokens[:, :1].to(patches.dtype), patches.shape[-1:], eps=1e-8)
        return patches

    def patches(self, tokens: Tensor) -> Tensor:
        """Without class and register tokens, at least in float32: (B, P + N, D) -> (B, N, D)."""
        return at_least_float32(tokens[:, self.teacher.model.num_prefix_tokens :])

    def loss(self, disagreement: "Disagreement") -> Tensor:
        """One minus the cosine of all patches of an image together, mean over images and groups."""
        return restoration_loss(disagreement.teachers, disagreement.students)

    def training_loss(self, images: Tensor, features: list[Tensor], others: Others) -> Tensor:
        """The same loss; what is restored best already hardly moves the decoder."""
        disagreement = self.compare(images, features)
        share = self.easy * min(1.0, self.global_step / self.ramp)
        for teacher, student in zip(disagreement.teachers, disagreement.students, strict=True):
            weights = mining_weights(distance(teacher, student).detach(), share, self.easy_weight)
            weigh_gradients(student, weights)
        return self.loss(disagreement)

    def detect(self, disagreement: "Disagreement") -> Prediction:
        """Mean of the groups' distances, smoothed at the authors' size by 5x5 taps of a Gaussian, zeros outside."""
        teachers, students, size = disagreement
        assert size is not None
        return Prediction(restoration_map(teachers, students, size, self.teacher.patch_size))

    def configure_optimizers(self) -> Any:
        groups: list[dict[str, Any]] = [{"params": [*self.bottleneck.parameters(), *self.decoder.parameters()]}]
        if isinstance(self.squeeze, nn.Linear):
            groups.append({"params": list(self.squeeze.parameters()), "lr": self.squeeze_lr})
        optimizer = stable_adamw(groups, self.lr, self.eps, self.weight_decay, self.amsgrad)
        constant = self.final_lr == self.lr
        steps = self.warmup if constant else self.total_steps("learning rate falls until training ends")
        return warm_up_and_fall(optimizer, steps, self.warmup, self.final_lr / self.lr)


class Disagreement(NamedTuple):
    """What teacher and decoder say of the patches, the early group and the late one."""

    teachers: list[Tensor]  # 2 x (B, N, D)
    students: list[Tensor]  # 2 x (B, N, D)
    size: tuple[int, int] | None  # (H, W), where the images are at hand


class DecoderBlock(nn.Module):
    """A pre-norm transformer block with linear attention, (B, P + N, D) -> the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width, eps=1e-8), LinearAttention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-8), mlp(width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens))
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class LinearAttention(nn.Module):
    """Attention by phi(q) phi(k)^T with phi(x) = elu(x) + 1 in place of the softmax (Katharopoulos et al., ICML 2020),
    (B, N, D) -> the same: it cannot focus, and so passes on less of what is local."""

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


def mining_weights(distances: Tensor, share: float, weight: float) -> Tensor:
    """1 for the hardest patches of the batches of all processes, `weight` for the `share` of them below: (B, N)."""
    everywhere = gather_processes(distances)
    hardest = everywhere.topk(max(1, int(len(everywhere) * (1 - share))), sorted=False).values
    return torch.where(distances < hardest.min(), weight, 1.0)
