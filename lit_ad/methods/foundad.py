"""FoundAD: Foundation Visual Encoders Are Secretly Few-Shot Anomaly Detectors (Zhai et al., ICLR 2026),
https://arxiv.org/abs/2510.01934.

A projector learns to map a frozen ViT's tokens to those of a nominal image. In training, its input is an image with a
made-up defect, and its target the same image without the defect. A patch whose token it moves far is anomalous.
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

HEADS = 12  # heads of each block's attention
LayerNorm: Any = partial(nn.LayerNorm, eps=1e-6)


class FoundAD(Method):
    """A projector for the patch tokens of any timm ViT, trained on a few images of each of many categories.

    Set data.corrupt; the paper's choice is lit_ad.data.CutPaste. Set data.augment: few images need augmentation. Set
    `checkpoint.monitor: null` to keep the last step: nominal held-out images cannot tell which step finds defects best.

    An image's score comes from all its patches, and not from its map, so padding and pixels outside the mask of
    view.roi count. With tiles, it is the highest score of the tiles.

    Args:
        backbone: timm name; the paper's are DINOv3 ViT-B/16 at 512 and DINOv2 ViT-B/14 at 518.
        tap: Index of the teacher's block, from 0. A negative index counts from the end: -3 is the third last.
        weights: Source of the teacher's weights: hub, hf-hub:OWNER/REPO, or a file.
        view: How images become network inputs.
        width: Width of the projector's tokens, a multiple of its 12 attention heads.
        depth: Number of the projector's blocks.
        dropout: Dropout on the projector's input.
        clean_share: Fraction of steps whose input is the nominal images. The input of the others is corrupted.
        highest: An image's score is the mean of this number of patch errors, the highest. The paper takes 6 for VisA.
        lr: Learning rate of AdamW, which is constant.
        weight_decay: Weight decay of AdamW.
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
        """Project the teacher's tokens."""
        (level,) = features
        return Disagreement(level, self.projector(level))

    def loss(self, disagreement: "Disagreement") -> Tensor:
        """Return the mean squared error over batch, channels and patches: a scalar."""
        return _measure_patch_errors(disagreement).mean()

    def training_loss(self, images: Tensor, features: list[Tensor], others: Others) -> Tensor:
        """Return the same loss. By chance, the projector's input is the clean batch or the corrupted batch.

        Raises:
            UserError: The data has no corrupted images.
        """
        if others.corrupted is None:
            raise UserError("FoundAD learns from made-up defects: set data.corrupt to lit_ad.data.CutPaste")
        is_clean = torch.rand(()).item() < self.clean_share
        inputs = features if is_clean else self.describe(others.corrupted)
        return self.loss(Disagreement(features[0], self.projector(inputs[0])))

    def detect(self, disagreement: "Disagreement") -> Prediction:
        """Return the map of the patches' errors, (B, 1, h, w), and the mean of the highest errors, (B,)."""
        errors = _measure_patch_errors(disagreement)
        patches = errors.flatten(1)
        count = min(self.highest, patches.shape[1])
        return Prediction(errors, patches.topk(count, dim=1, sorted=False).values.mean(dim=1))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.projector.parameters(), lr=self.lr, weight_decay=self.weight_decay)


class Disagreement(NamedTuple):
    """The projector's target and output."""

    teacher: Tensor  # (B, D, h, w): the teacher's tokens of the nominal images
    student: Tensor  # (B, D, h, w): the projector's output


class _NormedTokens(Teacher):
    """A ViT teacher that returns its patch tokens after one block and the model's final norm, (B, D, h, w).

    Args:
        name, weights: As for Teacher.
        taps: As for Teacher; negative ones count from the end.
    """

    def __init__(self, name: str, taps: Sequence[int], weights: str) -> None:
        super().__init__(name, taps, weights, norm=True)

    def _prune(self, model: Any) -> Any:
        if not (hasattr(model, "patch_embed") and hasattr(model, "blocks")):
            raise UserError(f"FoundAD needs a ViT, but {self.name} is not one: choose one of vit_*, deit*")
        depth = len(model.blocks)
        self.taps = tuple(depth + tap if tap < 0 else tap for tap in self.taps)
        return super()._prune(model)


class Projector(nn.Module):
    """Pre-norm transformer blocks. The embedded input is added to each block's output; there is no position embedding.

    Args:
        channels: Width D of its input and output.
        width: Width W of its tokens.
        depth: Number of blocks.
        dropout: Dropout on the input.
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


def _measure_patch_errors(disagreement: Disagreement) -> Tensor:
    """Return the mean squared difference over channels, (B, 1, h, w), in float32 or float64."""
    teacher, student = map(at_least_float32, disagreement)
    return (student - teacher).square().mean(dim=1, keepdim=True)
