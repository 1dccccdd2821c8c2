"""INP-Former: Exploring Intrinsic Normal Prototypes within a Single Image (Luo et al., CVPR 2025),
https://arxiv.org/abs/2503.02424.

A few learned tokens gather an image's own normal patterns, its prototypes, from a frozen ViT's patches. A decoder
restores the patches from these prototypes alone, and fails on a patch that resembles none of them.
Shapes: B batch, N = h * w patches, M prototypes, D token width, (H, W) image.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, relu

from lit_ad.batch import Others, Prediction
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods.base import Method
from lit_ad.methods.initialisation import initialise_linear_layers
from lit_ad.methods.network import as_images
from lit_ad.methods.restoration import (
    GroupedPatches,
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


class INPFormer(Method):
    """A decoder for the patches of any plain timm ViT. It needs no pixels once features are cached.

    The schedule of the learning rate spans the whole training: set trainer.max_epochs, 200 in the paper. Teacher,
    blocks, map and score are those of Dinomaly, with the same differences from the authors' code.

    Args:
        backbone: timm name; the paper's is DINOv2 ViT-B/14 with registers.
        weights: Source of the teacher's weights: hub, hf-hub:OWNER/REPO, or a file.
        view: How images become network inputs. The paper's tables crop 392 of 448, View(448, crop=392).
        blocks: Indices of the teacher's blocks to restore, from 0, an even number: the mean of the early half is one
            target, the mean of the late half the other. None: eight from a sixth to three quarters of the depth, 2 to 9
            of 12.
        prototypes: Number of prototypes of an image.
        gather: Weight of the gather loss, the mean distance of patches to their nearest prototype. The restoration loss
            has weight 1.
        power: A patch's gradient is multiplied by (distance / mean distance of the batch)^power. 0: no weighting.
        lr: The highest learning rate.
        final_lr: Learning rate of the last step; the rate falls to it by a cosine.
        warmup: Steps in which the rate rises from 0 to `lr`.
        eps: Epsilon in the denominator of StableAdamW.
        weight_decay: Weight decay of StableAdamW.
        clip: The largest norm of a step's gradient; trainer.gradient_clip_val overrides it.

    Raises:
        UserError: The backbone is not a plain ViT, or `prototypes` is below 1.
    """

    needs_pixels = False
    top = 0.01

    def __init__(
        self,
        backbone: str = "vit_base_patch14_reg4_dinov2.lvd142m",
        weights: str = "hub",
        view: View = View(392),
        blocks: Sequence[int] | None = None,
        prototypes: int = 6,
        gather: float = 0.2,
        power: float = 3.0,
        lr: float = 1e-3,
        final_lr: float = 1e-4,
        warmup: int = 100,
        eps: float = 1e-10,
        weight_decay: float = 1e-4,
        clip: float = 0.1,
    ) -> None:
        if prototypes < 1:
            raise UserError(f"model.prototypes must be 1 or more, not {prototypes}")
        teacher = GroupedPatches(backbone, blocks, weights)
        super().__init__(view.of_multiple(teacher.patch_size))
        self.teacher: GroupedPatches = teacher
        teacher.warn_of_middle_blocks("take")
        width, heads = teacher.width, teacher.heads
        self.extractor = _Extractor(prototypes, width, heads)
        self.bottleneck = make_mlp(width)
        self.decoder = nn.ModuleList(Block(width, ReLUAttention(width, heads), residual=False) for _ in teacher.taps)
        for part in self.students:
            initialise_linear_layers(part)
        self.gather, self.power = gather, power
        self.lr, self.final_lr, self.warmup = lr, final_lr, warmup
        self.eps, self.weight_decay, self.clip = eps, weight_decay, clip

    @property
    def students(self) -> list[nn.Module]:
        """The trained networks."""
        return [self.extractor, self.bottleneck, self.decoder]

    def compare(self, images: Tensor | None, features: list[Tensor]) -> "Disagreement":
        """Extract the prototypes, and restore the two groups' patches from them."""
        early, late = features
        patches = (early + late) / 2  # the mean of all blocks
        prototypes = self.extractor(patches)
        tokens = self.bottleneck(patches).to(patches.dtype)
        outputs = []
        for block in self.decoder:
            tokens = block(tokens, prototypes)
            outputs.append(tokens)
        teachers = [at_least_float32(level) for level in features]
        students = [at_least_float32(group) for group in group_outputs(outputs)]
        size = None if images is None else (images.shape[-2], images.shape[-1])
        return Disagreement(teachers, students, patches, prototypes, size)

    def loss(self, disagreement: "Disagreement") -> Tensor:
        """Return the restoration loss plus the weighted mean distance of patches to their nearest prototype."""
        restoration = compute_restoration_loss(disagreement.teachers, disagreement.students)
        distances = measure_prototype_distances(disagreement.patches, disagreement.prototypes)
        return restoration + self.gather * distances.amin(dim=2).mean()

    def training_loss(self, images: Tensor, features: list[Tensor], others: Others) -> Tensor:
        """Return the same loss. Patches that are restored worst have the largest gradient: see `power`."""
        disagreement = self.compare(images, features)
        for teacher, student in zip(disagreement.teachers, disagreement.students, strict=True):
            weigh_gradients(student, weigh_by_distance(measure_distance(teacher, student).detach(), self.power))
        return self.loss(disagreement)

    def detect(self, disagreement: "Disagreement") -> Prediction:
        """Average, resize and smooth the groups' distances: (B, 1, h, w). See `make_restoration_map`."""
        size = disagreement.size
        assert size is not None
        return Prediction(
            make_restoration_map(disagreement.teachers, disagreement.students, size, self.teacher.patch_size)
        )

    @torch.no_grad()
    def find_nearest_prototypes(self, pixels: Tensor) -> Tensor:
        """Return the index of each patch's nearest prototype: uint8 (B, 3, H, W) -> (B, h, w)."""
        images = as_images(pixels)
        disagreement = self.compare(images, self.describe(images))
        nearest = measure_prototype_distances(disagreement.patches, disagreement.prototypes).argmin(dim=2)
        return nearest.view(len(images), images.shape[-2] // self.teacher.patch_size, -1)

    def configure_optimizers(self) -> Any:
        parameters = [parameter for part in self.students for parameter in part.parameters()]
        optimizer = make_stable_adamw(parameters, self.lr, self.eps, self.weight_decay)
        steps = self.total_steps(why="learning rate falls until training ends")
        return warm_up_and_fall(optimizer, steps, self.warmup, self.final_lr / self.lr)


class Disagreement(NamedTuple):
    """The teacher's and the decoder's patches for the early and the late group, and the prototypes."""

    teachers: list[Tensor]  # 2 x (B, N, D)
    students: list[Tensor]  # 2 x (B, N, D)
    patches: Tensor  # (B, N, D), the mean of the groups
    prototypes: Tensor  # (B, M, D)
    size: tuple[int, int] | None  # (H, W); None if only cached features are given


class _Extractor(nn.Module):
    """Gathers an image's prototypes from its patches by learned tokens, (B, N, D) -> (B, M, D)."""

    def __init__(self, prototypes: int, width: int, heads: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(prototypes, width))
        self.block = Block(width, CrossAttention(width, heads), residual=True)

    def forward(self, patches: Tensor) -> Tensor:
        prototypes: Tensor = self.block(self.tokens.expand(patches.shape[0], -1, -1), patches)
        return prototypes


class Block(nn.Module):
    """A pre-norm transformer block that attends to other tokens, (B, Q, D) and (B, K, D) -> (B, Q, D).

    Args:
        width: Width D of a token.
        attention: Attention from the queries to the other tokens.
        residual: Add the queries to the attention's output. If False, the output depends on the queries only through
            the attention's weights.
    """

    def __init__(self, width: int, attention: "CrossAttention", residual: bool) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width, eps=1e-8), attention
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-8), make_mlp(width)
        self.residual = residual

    def forward(self, queries: Tensor, others: Tensor) -> Tensor:
        attended = self.attention(self.norm1(queries), self.norm1(others)).to(queries.dtype)
        tokens = queries + attended if self.residual else attended
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class CrossAttention(nn.Module):
    """Multi-head softmax attention from queries to other tokens, (B, Q, D) and (B, K, D) -> (B, Q, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, queries: Tensor, others: Tensor) -> Tensor:
        q = self.query(queries).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(others).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        with torch.autocast(queries.device.type, enabled=False):
            q, k, v = (at_least_float32(part) for part in (q, k, v))  # (B, heads, Q or K, d)
            attended = (self.weigh_keys(q, k) @ v).transpose(1, 2).flatten(2)
        out: Tensor = self.projection(attended.to(queries.dtype))
        return out

    def weigh_keys(self, q: Tensor, k: Tensor) -> Tensor:
        """Return the weights of the keys for each query, (B, heads, Q, d) and (B, heads, K, d) -> (B, heads, Q, K)."""
        weights: Tensor = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(dim=-1)
        return weights


class ReLUAttention(CrossAttention):
    """Attention by the ReLU of the cosine instead of the softmax: a patch that resembles no prototype gets zeros."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.scale = nn.Parameter(torch.ones(heads, 1, 1))

    def weigh_keys(self, q: Tensor, k: Tensor) -> Tensor:
        return relu(normalize(q, dim=-1) @ normalize(k, dim=-1).transpose(2, 3) * self.scale)


def measure_prototype_distances(patches: Tensor, prototypes: Tensor) -> Tensor:
    """Return one minus the cosine in float32 or float64, (B, N, D) and (B, M, D) -> (B, N, M)."""
    with torch.autocast(patches.device.type, enabled=False):
        patches, prototypes = (normalize(at_least_float32(tokens), dim=-1) for tokens in (patches, prototypes))
        return 1 - patches @ prototypes.transpose(1, 2)


def weigh_by_distance(distances: Tensor, power: float) -> Tensor:
    """Return (distance / mean)^power, with the mean over the batches of all processes: (B, N) -> the same shape."""
    distances = distances.clamp(min=0)  # rounding can make them -1e-7
    mean = gather_batches(distances).mean()
    return (distances / mean.clamp(min=torch.finfo(mean.dtype).tiny)) ** power
