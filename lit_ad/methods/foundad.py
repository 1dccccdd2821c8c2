"""FoundAD: Foundation Visual Encoders Are Secretly Few-Shot Anomaly Detectors (Zhai et al., ICLR 2026),
https://arxiv.org/abs/2510.01934.

A projector learns to bring a frozen ViT's tokens back to what nominal images say: those of an image with a made-up
defect to those of the image without it. Where it moves a patch far, the patch is anomalous.
Shapes: B batch, D token width, N = h * w patches, W the projector's width.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from lit_ad.batch import Others, Prediction
from lit_ad.errors import UserError, check_number
from lit_ad.image.view import View
from lit_ad.methods.base import Method
from lit_ad.methods.initialisation import initialise_linear_layers
from lit_ad.methods.restoration import at_least_float32
from lit_ad.teachers import Teacher

HEADS = 12  # of each block's attention
LayerNorm: Any = partial(nn.LayerNorm, eps=1e-6)


class FoundAD(Method):
    """A projector of the patch tokens of any timm ViT, for few images of each of many categories.

    It needs data.corrupt, lit_ad.data.CutPaste as the paper has it, and data.augment: few images as they are teach too
    little. The last step is to be kept, by `checkpoint.monitor: null`: nominal held-out images cannot tell which step
    finds defects best.

    An image's score is that of its patches, and not of its map: padding and what the mask of view.roi leaves out count
    too. Of tiles, it is the highest.

    Args:
        backbone: timm name; the paper's are DINOv3 ViT-B/16 at 512 and DINOv2 ViT-B/14 at 518.
        tap: The teacher's block, from 0, or from the end where it is negative: -3 is the third from the end.
        weights: The teacher's: hub, hf-hub:OWNER/REPO, or a file.
        view: How images become network inputs.
        width: Of the projector's tokens, a multiple of 12, its attention's heads.
        depth: Its blocks.
        dropout: On its input.
        clean_share: How many of the steps have the nominal images as the input, the others the corrupted ones.
        highest: How many patches, those with the highest errors, have the image's score as their mean. 6 for VisA.
        lr: AdamW's, which stays.
        weight_decay: AdamW's.
    """

    map_scored = False

    def __init__(
        self,
        backbone: str = "vit_base_patch14_dinov2.lvd142m",
        tap: int = -3,
        weights: str = "hub",
        view: View = View(518),
        width: int = 384,
        depth: int = 6,
        dropout: float = 0.2,
        clean_share: float = 0.5,
        highest: int = 10,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
    ) -> None:
        if width < HEADS or width % HEADS:
            raise UserError(f"model.width must be a multiple of {HEADS}, the heads of its attention, not {width}")
        check_number("model.depth", depth, least=1)
        check_number("model.clean_share", clean_share, least=0, most=1)
        check_number("model.highest", highest, least=1)
        teacher = _NormedTokens(backbone, [tap], weights)
        super().__init__(view.of_multiple(teacher.patch_size))
        self.teacher = teacher
        self.projector = Projector(teacher.channels[0], width, depth, dropout)
        self.clean_share, self.highest, self.lr, self.weight_decay = clean_share, highest, lr, weight_decay

    def compare(self, images: Tensor, features: list[Tensor]) -> "Disagreement":
        (level,) = features
        return Disagreement(level, self.projector(level))

    def loss(self, disagreement: "Disagreement") -> Tensor:
        """Mean squared error over batch, channels and patches."""
        return _patch_errors(disagreement).mean()

    def training_loss(self, images: Tensor, features: list[Tensor], others: Others) -> Tensor:
        """The same; the projector sees the whole batch as it is or the whole batch corrupted, by chance.

        Raises UserError if the data has no corrupted images.
        """
        if others.corrupted is None:
            raise UserError("FoundAD learns from made-up defects: set data.corrupt to lit_ad.data.CutPaste")
        is_clean = torch.rand(()).item() < self.clean_share
        inputs = features if is_clean else self.describe(others.corrupted)
        return self.loss(Disagreement(features[0], self.projector(inputs[0])))

    def detect(self, disagreement: "Disagreement") -> Prediction:
        """Each patch's error, (B, 1, h, w), and the mean of the highest ones, (B,)."""
        errors = _patch_errors(disagreement)
        patches = errors.flatten(1)
        count = min(self.highest, patches.shape[1])
        return Prediction(errors, patches.topk(count, dim=1, sorted=False).values.mean(dim=1))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.projector.parameters(), lr=self.lr, weight_decay=self.weight_decay)


class Disagreement(NamedTuple):
    """What the teacher says of nominal images, and what the projector makes of its input."""

    teacher: Tensor  # (B, D, h, w)
    student: Tensor  # (B, D, h, w)


class _NormedTokens(Teacher):
    """A ViT's patch tokens after one block and the model's final norm, (B, D, h, w).

    Args:
        name, weights: As for Teacher.
        taps: As for Teacher; negative ones count from the end.
    """

    def __init__(self, name: str, taps: Sequence[int], weights: str) -> None:
        super().__init__(name, taps, weights, norm=True)

    def _prune(self, model: Any) -> Any:
        if not (hasattr(model, "patch_embed") and hasattr(model, "blocks")):
            raise UserError(f"FoundAD needs a ViT, and {self.name} is none: choose one of vit_*, deit*")
        depth = len(model.blocks)
        self.taps = tuple(depth + tap if tap < 0 else tap for tap in self.taps)
        return super()._prune(model)


class Projector(nn.Module):
    """Pre-norm transformer blocks, each of which gets the embedded input added to its output; no position embedding.

    Args:
        channels: D, of its input and output.
        width: W, inside.
        depth: How many blocks there are.
        dropout: On the input.
    """

    def __init__(self, channels: int, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.dropout, self.embedding = nn.Dropout(dropout), nn.Linear(channels, width)
        self.blocks = nn.ModuleList(Block(width, HEADS, qkv_bias=True, norm_layer=LayerNorm) for _ in range(depth))
        self.norm, self.head = LayerNorm(width), nn.Linear(width, channels)
        initialise_linear_layers(self, std=0.02, limit=2.0)

    def forward(self, level: Tensor) -> Tensor:
        """(B, D, h, w) -> the same shape."""
        embedded = self.embedding(self.dropout(level.flatten(2).transpose(1, 2)))  # (B, N, W)
        tokens = embedded
        for block in self.blocks:
            tokens = block(tokens) + embedded
        output: Tensor = self.head(self.norm(tokens)).transpose(1, 2).unflatten(2, level.shape[-2:])
        return output


def _patch_errors(disagreement: Disagreement) -> Tensor:
    """Mean of the squared differences over channels, (B, 1, h, w), at least in float32."""
    teacher, student = map(at_least_float32, disagreement)
    return (student - teacher).square().mean(dim=1, keepdim=True)
