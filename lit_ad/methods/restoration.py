"""Shared parts of Dinomaly and INP-Former, whose decoders restore the tokens of a frozen ViT.

The tokens of the teacher's middle blocks are averaged in two groups, an early and a late one. The decoder restores the
two means. Patches that it fails to restore are anomalous.
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
from lit_ad.methods.maps import smooth_map, upsample
from lit_ad.teachers import Teacher

_BLOCKS = 8  # number of the teacher's blocks to restore by default: Dinomaly, section 4
_MAP_SIDE = 256  # shorter side of the smoothed and scored map, as the authors of both methods evaluate


class GroupedTokens(Teacher):
    """A ViT teacher that returns the mean of its tokens after the early blocks, and after the late ones:
    2 x (B, P + N, D).

    Args:
        name, weights: As for Teacher.
        blocks: Indices of the blocks from 0: an even number, ascending. None: eight from a sixth to three quarters of
            the depth.

    Raises:
        UserError: The model is not a plain ViT, or the blocks are not an even number of ascending indices.
    """

    depth: int  # number of blocks of the whole model

    def __init__(self, name: str, blocks: Sequence[int] | None, weights: str) -> None:
        super().__init__(name, blocks or (), weights)

    def _prune(self, model: Any) -> Any:
        if not isinstance(model, VisionTransformer | Eva):
            raise UserError(
                f"Dinomaly and INP-Former need a plain ViT, whose blocks all have tokens of one width; timm's "
                f"{self.name} is a {type(model).__name__}: choose one of vit_*, deit*"
            )
        self.depth = len(model.blocks)
        self.taps = self.taps or choose_middle_blocks(self.depth)
        if len(self.taps) % 2 or list(self.taps) != sorted(set(self.taps)):
            raise UserError(f"model.blocks must be an even number of ascending blocks, not {list(self.taps)}")
        return super()._prune(model)

    @property
    def width(self) -> int:
        """Width D of a token."""
        return self.channels[0]

    @property
    def heads(self) -> int:
        """Number of heads of each block's attention."""
        return int(self.model.blocks[0].attn.num_heads)

    def warn_of_middle_blocks(self, remedy: str) -> None:
        """Warn if the targets include blocks from the first half of a DINOv3, unchanged.

        Dinomaly reached an image AUROC of 0.667 with them, and 0.993 with blocks 20 to 23 of 24:
        https://github.com/guojiajeremy/Dinomaly/issues/21.

        Args:
            remedy: What to do: a phrase that ends in a verb, such as "take", before "late blocks".
        """
        if "dinov3" in self.name and self.taps[0] < self.depth / 2:
            late = list(range(self.depth - 4, self.depth))
            rank_zero_warn(
                f"The blocks {list(self.taps)} of {self.name} are the targets, unchanged, which is known to fail with "
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
            if self.model.num_prefix_tokens:  # without them, `tokens` has patches only, and no pairs
                tokens = [torch.cat([prefix, patches], dim=1) for patches, prefix in tokens]
            half = len(tokens) // 2
            return [torch.stack(group).mean(dim=0) for group in (tokens[:half], tokens[half:])]


class GroupedPatches(GroupedTokens):
    """As GroupedTokens, but without class and register tokens, which are neither cached nor restored: 2 x (B, N, D)."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return [level[:, self.model.num_prefix_tokens :].contiguous() for level in super().forward(images)]


def choose_middle_blocks(depth: int) -> tuple[int, ...]:
    """Return eight indices from a sixth to three quarters of the depth: 2 to 9 of 12, 4 to 18 of 24 in steps of 2."""
    first, last = depth / 6, depth * 3 / 4
    return tuple(sorted({round(first + i * (last - first) / (_BLOCKS - 1)) for i in range(_BLOCKS)}))


def make_mlp(width: int, dropout: float = 0.0, source: int | None = None) -> nn.Sequential:
    """Make an MLP with one hidden layer of 4 D, (..., source) -> (..., D), where D is `width`. `source` None: D."""
    return nn.Sequential(
        *(nn.Dropout(dropout), nn.Linear(source or width, 4 * width), nn.GELU()),
        *(nn.Dropout(dropout), nn.Linear(4 * width, width), nn.Dropout(dropout)),
    )


def group_outputs(outputs: list[Tensor]) -> list[Tensor]:
    """Return the means of the decoder's outputs for the teacher's early and late group: blocks x (...) -> 2 x (...).

    The order is reversed: the decoder's last blocks restore the teacher's early ones.
    """
    half = len(outputs) // 2
    return [torch.stack(group).mean(dim=0) for group in (outputs[half:], outputs[:half])]


def at_least_float32(tokens: Tensor) -> Tensor:
    """Return half-precision tokens as float32, others unchanged: (...) -> the same shape."""
    return tokens.to(torch.promote_types(tokens.dtype, torch.float32))


def measure_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Return one minus the cosine, 2 x (..., D) -> (...)."""
    return 1 - cosine_similarity(teacher, student, dim=-1)


def compute_restoration_loss(teachers: list[Tensor], students: list[Tensor]) -> Tensor:
    """Return one minus the cosine of all patches of an image as one vector, mean over images and groups:
    2 x 2 x (B, N, D) -> a scalar."""
    pairs = zip(teachers, students, strict=True)
    return torch.stack([measure_distance(teacher.flatten(1), student.flatten(1)) for teacher, student in pairs]).mean()


def weigh_gradients(students: Tensor, weights: Tensor) -> None:
    """Multiply the gradient of each patch (B, N, D) by its weight (B, N) in the next backward pass. The loss does not
    change."""
    students.register_hook(partial(torch.mul, weights[..., None]))


def gather_batches(values: Tensor) -> Tensor:
    """Concatenate the values of all processes' batches, whose B must be equal: (B, N) -> (processes * B * N,)."""
    everywhere = values.flatten()
    if not (dist.is_available() and dist.is_initialized()):
        return everywhere
    parts = [torch.empty_like(everywhere) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, everywhere.contiguous())
    return torch.cat(parts)


def make_restoration_map(teachers: list[Tensor], students: list[Tensor], size: tuple[int, int], patch: int) -> Tensor:
    """Average the two groups' distances, resize the map as the authors do, and smooth it by a Gaussian cut to 5x5.

    Args:
        teachers: The two groups' targets, (B, N, D) each.
        students: The decoder's outputs for them, (B, N, D) each.
        size: (H, W) of the images.
        patch: Side of a patch in pixels.

    Returns:
        The map (B, 1, h, w), whose shorter side is 256. Smoothing takes zeros beyond its border.
    """
    height, width = size
    pairs = zip(teachers, students, strict=True)
    levels = [measure_distance(t, s).unflatten(1, (height // patch, width // patch))[:, None] for t, s in pairs]
    maps = [interpolate(level, size, mode="bilinear", align_corners=True) for level in levels]
    scale = _MAP_SIDE / min(height, width)
    small = upsample(torch.stack(maps).mean(dim=0), (round(scale * height), round(scale * width)))
    return smooth_map(small, sigma=4.0, radius=2, mode="constant")


def make_stable_adamw(
    parameters: Sequence[nn.Parameter] | list[dict[str, Any]],
    lr: float,
    eps: float,
    weight_decay: float,
    amsgrad: bool = True,
) -> torch.optim.Optimizer:
    """Make the optimizer of the authors: StableAdamW (Wortsman et al., NeurIPS 2023, https://arxiv.org/abs/2304.13013).

    It is AdamW, but the step of each tensor is divided by max(1, RMS of gradient / denominator). The step is then short
    if the second moment lags behind a sudden gradient. The weight decay is not divided.

    Args:
        parameters: Parameters, or groups of them as torch's optimizers take them.
        lr: Learning rate.
        eps: Epsilon in the denominator.
        weight_decay: Decoupled weight decay, as in AdamW.
        amsgrad: Keep the second moment from falling.
    """
    return AdamWLegacy(parameters, lr=lr, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, clipping_threshold=1.0)


def warm_up_and_fall(optimizer: torch.optim.Optimizer, steps: int, warmup: int, final: float) -> dict[str, Any]:
    """Return the optimizer with a scheduler that follows `schedule`, as `configure_optimizers` returns them.

    Args:
        optimizer: Its groups have their highest learning rates.
        steps: Steps of the whole training.
        warmup: Steps in which the rate rises from 0.
        final: The last rate as a fraction of the highest.
    """
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, steps, warmup, final))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def schedule(step: int, steps: int, warmup: int, final: float) -> float:
    """Return the learning rate as a fraction of the highest: it rises linearly from 0 in `warmup` steps, then falls by
    half a cosine to `final` at the last of all `steps`."""
    if step < warmup:
        return step / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2
