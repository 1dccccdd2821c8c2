"""Dinomaly: The Less Is More Philosophy in Multi-Class Unsupervised Anomaly Detection (Guo et al., CVPR 2025),
https://arxiv.org/abs/2405.14325; its recentring is of Dinomaly2, https://arxiv.org/abs/2510.17611.

A bottleneck full of dropout and a decoder of blocks with linear attention restore a frozen ViT's middle tokens. All of
it keeps the decoder from copying what it has not learned: noise, attention that cannot focus, and a loose target, the
means of groups of blocks, of which training drops the patches that are restored already.
Shapes: B batch, N = h * w patches, P class and register tokens, D token width, (H, W) image.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from timm.optim.adamw import AdamWLegacy
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, elu, interpolate, layer_norm

from lit_ad.batch import Prediction
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods.base import Method
from lit_ad.methods.maps import gaussian_blur, upsample
from lit_ad.teachers import Teacher

BLOCKS = 8  # of the teacher that are restored, if it is not said which, section 4
MAP_SIDE = 256  # of the map that is smoothed and scored, as the authors evaluate


class Dinomaly(Method):
    """A decoder of the tokens of any plain timm ViT. It needs no pixels once features are cached.

    The learning rate follows the whole training: trainer.max_steps says how long that is, 10 000 steps in the paper.
    An image's score is taken after its map is resized to the network's size, 0.04 to 0.4 % lower than the authors' at
    256. timm resizes position embeddings with antialiasing, as DINOv2's authors do and Dinomaly's do not.

    Args:
        backbone: timm name; the paper's is DINOv2 ViT-B/14 with registers.
        weights: The teacher's: hub, hf-hub:OWNER/REPO, or a file.
        view: How images become network inputs. The paper's tables crop 392 of 448, View(448, crop=392).
        blocks: The teacher's that are restored, from 0, an even number of them: the early half is one target, the
            late half the other. None: eight from a sixth to three quarters of its depth, 2 to 9 of 12.
        recentre: Compare patches as they differ from the class token, normalised (Dinomaly2): for many categories.
        dropout: In the bottleneck; 0.4 for as many categories as Real-IAD has.
        easy, easy_weight, ramp: That share of a batch's patches, those that are restored best, has its gradient
            multiplied by `easy_weight`; the share grows from 0 over `ramp` steps.
        lr, final_lr, warmup: The rate rises from 0 to `lr` in `warmup` steps and falls to `final_lr` by a cosine.
        eps: StableAdamW's; the authors train single categories with 1e-8.
        weight_decay: StableAdamW's.
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
        dropout: float = 0.2,
        easy: float = 0.9,
        easy_weight: float = 0.1,
        ramp: int = 1000,
        lr: float = 2e-3,
        final_lr: float = 2e-4,
        warmup: int = 100,
        eps: float = 1e-10,
        weight_decay: float = 1e-4,
        clip: float = 0.1,
    ) -> None:
        teacher = GroupedTokens(backbone, blocks, weights)
        if recentre and getattr(teacher.model, "cls_token", None) is None:
            raise UserError(f"model.recentre takes a class token, and {backbone} has none")
        super().__init__(view.of_multiple(teacher.patch_size))
        self.teacher: GroupedTokens = teacher
        width, heads = teacher.channels[0], teacher.model.blocks[0].attn.num_heads
        self.bottleneck = mlp(width, dropout)
        self.decoder = nn.ModuleList(DecoderBlock(width, heads) for _ in teacher.taps)
        for layer in [*self.bottleneck.modules(), *self.decoder.modules()]:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.03, b=0.03)
                nn.init.zeros_(layer.bias)
        self.recentre, self.easy, self.easy_weight, self.ramp = recentre, easy, easy_weight, ramp
        self.lr, self.final_lr, self.warmup = lr, final_lr, warmup
        self.eps, self.weight_decay, self.clip = eps, weight_decay, clip

    def compare(self, images: Tensor | None, features: list[Tensor]) -> "Disagreement":
        early, late = features
        tokens = self.bottleneck((early + late) / 2).to(early.dtype)  # the mean of all blocks
        outputs = []
        for block in self.decoder:
            tokens = block(tokens)
            outputs.append(tokens)
        half = len(outputs) // 2
        groups = (outputs[half:], outputs[:half])  # reversed: the decoder ends where the teacher begins
        students = [self.patches(torch.stack(group).mean(dim=0)) for group in groups]
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
        found = tokens[:, self.teacher.model.num_prefix_tokens :]
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def loss(self, disagreement: "Disagreement") -> Tensor:
        """One minus the cosine of all patches of an image together, mean over images and groups."""
        pairs = zip(disagreement.teachers, disagreement.students, strict=True)
        return torch.stack([distance(teacher.flatten(1), student.flatten(1)) for teacher, student in pairs]).mean()

    def training_loss(self, images: Tensor, features: list[Tensor], unrelated: Tensor | None) -> Tensor:
        """The same loss; what is restored best already hardly moves the decoder."""
        disagreement = self.compare(images, features)
        share = self.easy * min(1.0, self.global_step / self.ramp)
        for teacher, student in zip(disagreement.teachers, disagreement.students, strict=True):
            weights = mining_weights(distance(teacher, student).detach(), share, self.easy_weight)
            student.register_hook(partial(torch.mul, weights[..., None]))
        return self.loss(disagreement)

    def detect(self, disagreement: "Disagreement") -> Prediction:
        """Mean of the groups' distances, smoothed at the authors' size by 5x5 taps of a Gaussian, zeros outside."""
        assert disagreement.size is not None
        patch, (height, width) = self.teacher.patch_size, disagreement.size
        pairs = zip(disagreement.teachers, disagreement.students, strict=True)
        levels = [distance(t, s).unflatten(1, (height // patch, width // patch))[:, None] for t, s in pairs]
        maps = [interpolate(level, (height, width), mode="bilinear", align_corners=True) for level in levels]
        scale = MAP_SIDE / min(height, width)
        size = (round(scale * height), round(scale * width))
        small = upsample(torch.stack(maps).mean(dim=0), size)
        return Prediction(gaussian_blur(small, sigma=4.0, radius=2, mode="constant"))

    def configure_optimizers(self) -> Any:
        steps = self.total_steps("falls until training ends")
        parameters = [*self.bottleneck.parameters(), *self.decoder.parameters()]
        optimizer = stable_adamw(parameters, self.lr, self.eps, self.weight_decay)

        def rate(step: int) -> float:
            return schedule(step, steps, self.warmup, self.final_lr / self.lr)

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        clip = self.clip if gradient_clip_val is None else gradient_clip_val
        self.clip_gradients(optimizer, clip, gradient_clip_algorithm or "norm")


class Disagreement(NamedTuple):
    """What teacher and decoder say of the patches, the early group and the late one."""

    teachers: list[Tensor]  # 2 x (B, N, D)
    students: list[Tensor]  # 2 x (B, N, D)
    size: tuple[int, int] | None  # (H, W), where the images are at hand


class GroupedTokens(Teacher):
    """The mean of a ViT's tokens after the early blocks, and after the late ones: 2 x (B, P + N, D).

    Args:
        name, weights: As for Teacher.
        blocks: An even number of them, ascending. None: eight of the middle.
    """

    def __init__(self, name: str, blocks: Sequence[int] | None, weights: str) -> None:
        super().__init__(name, blocks or (), weights)

    def _prune(self, model: Any) -> nn.Module:
        if not isinstance(model, VisionTransformer | Eva):
            raise UserError(
                f"Dinomaly needs a plain ViT, whose blocks all have tokens of one width; timm's {self.name} is a "
                f"{type(model).__name__}: choose one of vit_*, deit*"
            )
        self.taps = self.taps or middle(len(model.blocks))
        if len(self.taps) % 2 or list(self.taps) != sorted(set(self.taps)):
            raise UserError(f"model.blocks must be an even number of ascending blocks, not {list(self.taps)}")
        return super()._prune(model)

    def forward(self, images: Tensor) -> list[Tensor]:
        self.check_size(images)
        with torch.no_grad():
            tokens = self.model.forward_intermediates(
                self.normalize(images),
                indices=list(self.taps),
                return_prefix_tokens=True,
                output_fmt="NLC",
                intermediates_only=True,
            )
            if self.model.num_prefix_tokens:  # else these are the patches alone
                tokens = [torch.cat([prefix, patches], dim=1) for patches, prefix in tokens]
            half = len(tokens) // 2
            return [torch.stack(group).mean(dim=0) for group in (tokens[:half], tokens[half:])]


class DecoderBlock(nn.Module):
    """A pre-norm transformer block with linear attention, (B, P + N, D) -> the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width, eps=1e-8), LinearAttention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-8), mlp(width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


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
            q, k, v = qkv.to(torch.promote_types(qkv.dtype, torch.float32)).unbind(0)  # (B, heads, N, d)
            q, k = elu(q) + 1, elu(k) + 1
            context = k.transpose(2, 3) @ v  # (B, heads, d, d)
            total = q @ k.sum(dim=2)[..., None]  # (B, heads, N, 1)
            attended = (q @ context / (total + 1e-6)).transpose(1, 2).flatten(2)
        return self.projection(attended.to(tokens.dtype))


def mlp(width: int, dropout: float = 0.0) -> nn.Sequential:
    """(..., D) -> (..., D)."""
    return nn.Sequential(
        *(nn.Dropout(dropout), nn.Linear(width, 4 * width), nn.GELU()),
        *(nn.Dropout(dropout), nn.Linear(4 * width, width), nn.Dropout(dropout)),
    )


def middle(depth: int) -> tuple[int, ...]:
    """2 to 9 of 12 blocks, every second one from 4 to 18 of 24."""
    first, last = depth / 6, depth * 3 / 4
    return tuple(sorted({round(first + i * (last - first) / (BLOCKS - 1)) for i in range(BLOCKS)}))


def distance(teacher: Tensor, student: Tensor) -> Tensor:
    """One minus the cosine, 2 x (..., D) -> (...)."""
    return 1 - cosine_similarity(teacher, student, dim=-1)


def mining_weights(distances: Tensor, share: float, weight: float) -> Tensor:
    """1 for the hardest patches of the batches of all processes, `weight` for the `share` of them below: (B, N)."""
    everywhere = distances.flatten()
    if dist.is_available() and dist.is_initialized():
        parts = [torch.empty_like(everywhere) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, everywhere.contiguous())
        everywhere = torch.cat(parts)
    hardest = everywhere.topk(max(1, int(len(everywhere) * (1 - share))), sorted=False).values
    return torch.where(distances < hardest.min(), weight, 1.0)


def stable_adamw(parameters: list[nn.Parameter], lr: float, eps: float, weight_decay: float) -> torch.optim.Optimizer:
    """StableAdamW (Wortsman et al., NeurIPS 2023, https://arxiv.org/abs/2304.13013) with amsgrad, as the authors train.

    It is AdamW whose step on each tensor is divided by max(1, RMS of gradient / denominator): where the second moment
    lags behind a sudden gradient, the step is short. The decoupled weight decay is not divided.
    """
    return AdamWLegacy(parameters, lr=lr, eps=eps, weight_decay=weight_decay, amsgrad=True, clipping_threshold=1.0)


def schedule(step: int, steps: int, warmup: int, final: float) -> float:
    """The rate as a part of the highest: a line from 0, then half a cosine to `final` at the last of all steps."""
    if step < warmup:
        return step / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2
