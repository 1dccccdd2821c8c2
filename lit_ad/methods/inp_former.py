"""INP-Former: Exploring Intrinsic Normal Prototypes within a Single Image (Luo et al., CVPR 2025),
https://arxiv.org/abs/2503.02424.

A few learned tokens gather an image's own normal patterns, its prototypes, from a frozen ViT's patches. A decoder
restores the patches from these prototypes and nothing else: what has no prototype in its image is not restored.
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


class INPFormer(Method):
    """A decoder of the patches of any plain timm ViT. It needs no pixels once features are cached.

    The learning rate follows the whole training: trainer.max_epochs says how long that is, 200 in the paper. Teacher,
    blocks, map and score are as Dinomaly's, with the same differences from the authors: see there.

    Args:
        backbone: timm name; the paper's is DINOv2 ViT-B/14 with registers.
        weights: The teacher's: hub, hf-hub:OWNER/REPO, or a file.
        view: How images become network inputs. The paper's tables crop 392 of 448, View(448, crop=392).
        blocks: The teacher's that are restored, from 0, an even number of them: the early half is one target, the
            late half the other. None: eight from a sixth to three quarters of its depth, 2 to 9 of 12.
        prototypes: Of an image.
        gather: The weight of the gather loss beside that of the restoration.
        power: Of a patch's distance over the mean of its batch, by which the patch's gradient is multiplied. 0: all
            patches count alike.
        lr: The highest learning rate.
        final_lr: The learning rate of the last step, to which it falls by a cosine.
        warmup: Steps in which it rises from 0 to `lr`.
        eps: StableAdamW's.
        weight_decay: StableAdamW's.
        clip: The largest norm of a step's gradient, unless trainer.gradient_clip_val says another.

    Raises:
        UserError: The backbone is no plain ViT, or there are less than one prototype.
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
        self.bottleneck = mlp(width)
        self.decoder = nn.ModuleList(Block(width, ReLUAttention(width, heads), residual=False) for _ in teacher.taps)
        for part in self.students:
            initialise_linear_layers(part)
        self.gather, self.power = gather, power
        self.lr, self.final_lr, self.warmup = lr, final_lr, warmup
        self.eps, self.weight_decay, self.clip = eps, weight_decay, clip

    @property
    def students(self) -> list[nn.Module]:
        """All that is trained."""
        return [self.extractor, self.bottleneck, self.decoder]

    def compare(self, images: Tensor | None, features: list[Tensor]) -> "Disagreement":
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
        """That of the restoration, and the mean distance of the patches to their nearest prototypes."""
        restoration = restoration_loss(disagreement.teachers, disagreement.students)
        distances = prototype_distances(disagreement.patches, disagreement.prototypes)
        return restoration + self.gather * distances.amin(dim=2).mean()

    def training_loss(self, images: Tensor, features: list[Tensor], others: Others) -> Tensor:
        """The same loss; what is restored worst moves the decoder most."""
        disagreement = self.compare(images, features)
        for teacher, student in zip(disagreement.teachers, disagreement.students, strict=True):
            weigh_gradients(student, adaptive_weights(distance(teacher, student).detach(), self.power))
        return self.loss(disagreement)

    def detect(self, disagreement: "Disagreement") -> Prediction:
        size = disagreement.size
        assert size is not None
        return Prediction(restoration_map(disagreement.teachers, disagreement.students, size, self.teacher.patch_size))

    @torch.no_grad()
    def nearest_prototypes(self, pixels: Tensor) -> Tensor:
        """Return the number of the prototype that each patch is nearest to: uint8 (B, 3, H, W) -> (B, h, w)."""
        images = as_images(pixels)
        disagreement = self.compare(images, self.describe(images))
        nearest = prototype_distances(disagreement.patches, disagreement.prototypes).argmin(dim=2)
        return nearest.view(len(images), images.shape[-2] // self.teacher.patch_size, -1)

    def configure_optimizers(self) -> Any:
        parameters = [parameter for part in self.students for parameter in part.parameters()]
        optimizer = stable_adamw(parameters, self.lr, self.eps, self.weight_decay)
        steps = self.total_steps("learning rate falls until training ends")
        return warm_up_and_fall(optimizer, steps, self.warmup, self.final_lr / self.lr)


class Disagreement(NamedTuple):
    """What teacher and decoder say of the patches, the early group and the late one; patches and prototypes."""

    teachers: list[Tensor]  # 2 x (B, N, D)
    students: list[Tensor]  # 2 x (B, N, D)
    patches: Tensor  # (B, N, D), the mean of the groups
    prototypes: Tensor  # (B, M, D)
    size: tuple[int, int] | None  # (H, W), where the images are at hand


class _Extractor(nn.Module):
    """An image's own prototypes, gathered from its patches by learned tokens, (B, N, D) -> (B, M, D)."""

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
        width: Of a token.
        attention: From the queries to the others.
        residual: Whether the queries are added to what the attention gives. Without, the block's output is made of the
            other tokens alone.
    """

    def __init__(self, width: int, attention: "CrossAttention", residual: bool) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width, eps=1e-8), attention
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-8), mlp(width)
        self.residual = residual

    def forward(self, queries: Tensor, others: Tensor) -> Tensor:
        attended = self.attention(self.norm1(queries), self.norm1(others)).to(queries.dtype)
        tokens = queries + attended if self.residual else attended
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class CrossAttention(nn.Module):
    """Attention of several heads, by softmax, from queries to other tokens, (B, Q, D) and (B, K, D) -> (B, Q, D)."""

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
            attended = (self.weights(q, k) @ v).transpose(1, 2).flatten(2)
        out: Tensor = self.projection(attended.to(queries.dtype))
        return out

    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        """(B, heads, Q, d) and (B, heads, K, d) -> (B, heads, Q, K)."""
        weights: Tensor = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(dim=-1)
        return weights


class ReLUAttention(CrossAttention):
    """Attention by ReLU of the cosine in place of the softmax: a patch that is like no prototype gets nothing."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.scale = nn.Parameter(torch.ones(heads, 1, 1))

    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        return relu(normalize(q, dim=-1) @ normalize(k, dim=-1).transpose(2, 3) * self.scale)


def prototype_distances(patches: Tensor, prototypes: Tensor) -> Tensor:
    """One minus the cosine, at least in float32, (B, N, D) and (B, M, D) -> (B, N, M)."""
    with torch.autocast(patches.device.type, enabled=False):
        patches, prototypes = (normalize(at_least_float32(tokens), dim=-1) for tokens in (patches, prototypes))
        return 1 - patches @ prototypes.transpose(1, 2)


def adaptive_weights(distances: Tensor, power: float) -> Tensor:
    """(distance / mean)^power, with the mean over the batches of all processes: (B, N) -> the same shape."""
    distances = distances.clamp(min=0)  # rounding gives -1e-7
    mean = gather_processes(distances).mean()
    return (distances / mean.clamp(min=torch.finfo(mean.dtype).tiny)) ** power
