"""What methods share whose decoder restores a frozen ViT's tokens: Dinomaly and INP-Former.

The teacher's middle blocks are averaged in an early and in a late group, each of which is restored as one. What is not
restored is anomalous.
Shapes: B batch, N = h * w patches, P class and register tokens, D token width, (H, W) image.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_warn
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from timm.optim.adamw import AdamWLegacy
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, interpolate

from lit_ad.errors import UserError
from lit_ad.methods.maps import gaussian_blur, upsample
from lit_ad.teachers import Teacher

_BLOCKS = 8  # of the teacher that are restored, if it is not said which: Dinomaly, section 4
_MAP_SIDE = 256  # of the map that is smoothed and scored, as the authors of both methods evaluate


class GroupedTokens(Teacher):
    """The mean of a ViT's tokens after the early blocks, and after the late ones: 2 x (B, P + N, D).

    Args:
        name, weights: As for Teacher.
        blocks: An even number of them, ascending, from 0. None: eight from a sixth to three quarters of the depth.

    Raises:
        UserError: The model is no plain ViT, or the blocks are not as they must be.
    """

    depth: int  # blocks of the whole model

    def __init__(self, name: str, blocks: Sequence[int] | None, weights: str) -> None:
        super().__init__(name, blocks or (), weights)

    def _prune(self, model: Any) -> Any:
        if not isinstance(model, VisionTransformer | Eva):
            raise UserError(
                f"Dinomaly and INP-Former need a plain ViT, whose blocks all have tokens of one width; timm's "
                f"{self.name} is a {type(model).__name__}: choose one of vit_*, deit*"
            )
        self.depth = len(model.blocks)
        self.taps = self.taps or middle(self.depth)
        if len(self.taps) % 2 or list(self.taps) != sorted(set(self.taps)):
            raise UserError(f"model.blocks must be an even number of ascending blocks, not {list(self.taps)}")
        return super()._prune(model)

    @property
    def width(self) -> int:
        """Of a token."""
        return self.channels[0]

    @property
    def heads(self) -> int:
        """Of each block's attention."""
        return int(self.model.blocks[0].attn.num_heads)

    def warn_of_middle_blocks(self, remedy: str) -> None:
        """Warn where DINOv3's tokens are restored from the first half of its depth, as they are.

        With Dinomaly that gave an image AUROC of 0.667, and blocks 20 to 23 of 24 gave 0.993:
        https://github.com/guojiajeremy/Dinomaly/issues/21.
        """
        if "dinov3" in self.name and self.taps[0] < self.depth / 2:
            late = list(range(self.depth - 4, self.depth))
            rank_zero_warn(
                f"The blocks {list(self.taps)} of {self.name} are restored as they are, which is known to fail with "
                f"DINOv3's middle blocks: {remedy} late blocks, as model.blocks {late}"
            )

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


class GroupedPatches(GroupedTokens):
    """The same without class and register tokens, which are neither cached nor restored: 2 x (B, N, D)."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return [level[:, self.model.num_prefix_tokens :].contiguous() for level in super().forward(images)]


def middle(depth: int) -> tuple[int, ...]:
    """2 to 9 of 12 blocks, every second one from 4 to 18 of 24."""
    first, last = depth / 6, depth * 3 / 4
    return tuple(sorted({round(first + i * (last - first) / (_BLOCKS - 1)) for i in range(_BLOCKS)}))


def mlp(width: int, dropout: float = 0.0, source: int | None = None) -> nn.Sequential:
    """(..., source) -> (..., D), through 4 D; the source is as wide as the result unless it is said."""
    return nn.Sequential(
        *(nn.Dropout(dropout), nn.Linear(source or width, 4 * width), nn.GELU()),
        *(nn.Dropout(dropout), nn.Linear(4 * width, width), nn.Dropout(dropout)),
    )


def group_outputs(outputs: list[Tensor]) -> list[Tensor]:
    """What the decoder says of the early group and of the late one: blocks x (...) -> 2 x (...).

    It is reversed: the decoder ends where the teacher begins.
    """
    half = len(outputs) // 2
    return [torch.stack(group).mean(dim=0) for group in (outputs[half:], outputs[:half])]


def at_least_float32(tokens: Tensor) -> Tensor:
    """The same shape: halves become float32, float64 stays."""
    return tokens.to(torch.promote_types(tokens.dtype, torch.float32))


def distance(teacher: Tensor, student: Tensor) -> Tensor:
    """One minus the cosine, 2 x (..., D) -> (...)."""
    return 1 - cosine_similarity(teacher, student, dim=-1)


def restoration_loss(teachers: list[Tensor], students: list[Tensor]) -> Tensor:
    """Mean over images and groups of one minus the cosine of all patches together, 2 x 2 x (B, N, D) -> a scalar."""
    pairs = zip(teachers, students, strict=True)
    return torch.stack([distance(teacher.flatten(1), student.flatten(1)) for teacher, student in pairs]).mean()


def weigh_gradients(students: Tensor, weights: Tensor) -> None:
    """From here on, multiply the gradient of each patch (B, N, D) by its weight (B, N). The loss stays as it is."""
    students.register_hook(partial(torch.mul, weights[..., None]))


def gather_processes(values: Tensor) -> Tensor:
    """The values of the batches of all processes, (B, N) -> (processes * B * N,)."""
    everywhere = values.flatten()
    if not (dist.is_available() and dist.is_initialized()):
        return everywhere
    parts = [torch.empty_like(everywhere) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, everywhere.contiguous())
    return torch.cat(parts)


def restoration_map(teachers: list[Tensor], students: list[Tensor], size: tuple[int, int], patch: int) -> Tensor:
    """Mean of the groups' distances, smoothed at the authors' size by 5x5 taps of a Gaussian, zeros outside.

    Args:
        teachers: The two groups' targets, (B, N, D) each.
        students: What the decoder restores of them, (B, N, D) each.
        size: (H, W) of the images.
        patch: Its side in pixels.

    Returns:
        (B, 1, h, w), whose shorter side is MAP_SIDE.
    """
    height, width = size
    pairs = zip(teachers, students, strict=True)
    levels = [distance(t, s).unflatten(1, (height // patch, width // patch))[:, None] for t, s in pairs]
    maps = [interpolate(level, size, mode="bilinear", align_corners=True) for level in levels]
    scale = _MAP_SIDE / min(height, width)
    small = upsample(torch.stack(maps).mean(dim=0), (round(scale * height), round(scale * width)))
    return gaussian_blur(small, sigma=4.0, radius=2, mode="constant")


def stable_adamw(
    parameters: Sequence[nn.Parameter] | list[dict[str, Any]],
    lr: float,
    eps: float,
    weight_decay: float,
    amsgrad: bool = True,
) -> torch.optim.Optimizer:
    """StableAdamW (Wortsman et al., NeurIPS 2023, https://arxiv.org/abs/2304.13013), as the authors train.

    It is AdamW whose step on each tensor is divided by max(1, RMS of gradient / denominator): where the second moment
    lags behind a sudden gradient, the step is short. The decoupled weight decay is not divided.

    Args:
        parameters: Or groups of them, as torch's optimizers take them.
        lr: Learning rate.
        eps: Added to the denominator.
        weight_decay: Decoupled, as AdamW's.
        amsgrad: Whether the second moment never falls.
    """
    return AdamWLegacy(parameters, lr=lr, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, clipping_threshold=1.0)


def warm_up_and_fall(optimizer: torch.optim.Optimizer, steps: int, warmup: int, final: float) -> dict[str, Any]:
    """The optimizer with `schedule` in each step, as `configure_optimizers` returns it."""
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, steps, warmup, final))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def schedule(step: int, steps: int, warmup: int, final: float) -> float:
    """The rate as a part of the highest: a line from 0, then half a cosine to `final` at the last of all steps."""
    if step < warmup:
        return step / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2
