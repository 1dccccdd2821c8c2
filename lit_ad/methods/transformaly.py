"""Transformaly: Two (Feature Spaces) Are Better Than One (Cohen and Avidan, CVPRW 2022),
https://arxiv.org/abs/2112.04185.

Each block of a frozen ViT has a student, an untrained copy, which learns on nominal images to give the block's output
for the block's input. Two Gaussians are fitted to nominal images: one to the ViT's embeddings, one to the students'
errors. An image is nominal if its embedding and its errors are likely under these Gaussians.
Shapes: B batch, L blocks, N tokens (class and register tokens first), D token width, (h, w) patches of an image.
"""

from typing import Any, Literal, NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from lit_ad.batch import Prediction
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods.base import Method, Nominal
from lit_ad.methods.statistics import Gaussian, Moments
from lit_ad.teachers import Teacher
from lit_ad.teachers.weights import build


class Transformaly(Method):
    """One student for each block of any plain timm ViT (`vit_*`, `deit*`, DINO, DINOv2, CLIP, MAE).

    The Gaussians are fitted in one pass over the nominal training images before each validation, so that they fit the
    students in each checkpoint. The paper scores images only; the anomaly map is our extension.

    Args:
        backbone: timm name with the tag of its weights; the paper's is ViT-B/16 at 384, the original authors' weights.
        weights: Source of the teacher's weights: hub, hf-hub:OWNER/REPO, or a file.
        view: How images become network inputs.
        score: An image's score: "teacher" is -log p of the embedding, "blocks" is -log p of the students' errors,
            "both" is their sum. A test measures all three: image_auroc_teacher, image_auroc_blocks, image_auroc_both.
        first_block: First block, from 0, whose errors are used (2 to 11 in the paper).
        keep: Fraction of the embeddings' variance that PCA keeps.
        token_map: Compute anomaly maps.
        lr: Learning rate of Adam.
    """

    needs_pixels = False
    map_scored = False
    token_mean: Tensor
    token_deviation: Tensor

    def __init__(
        self,
        backbone: str = "vit_base_patch16_384.orig_in21k_ft_in1k",
        weights: str = "hub",
        view: View = View(384),
        score: Literal["both", "teacher", "blocks"] = "both",
        first_block: int = 2,
        keep: float = 0.9,
        token_map: bool = True,
        lr: float = 1e-4,
    ) -> None:
        teacher = TokenTeacher(backbone, weights)
        super().__init__(view.of_multiple(teacher.patch_size))
        self.teacher = teacher
        twin: Any = build(backbone)
        self.students: torch.nn.Sequential = twin.blocks
        width, depth = self.teacher.model.embed_dim, len(self.students)
        if not 0 <= first_block < depth:
            raise UserError(f"first_block must lie in 0 to {depth - 1}, the blocks of {backbone}, not {first_block}")
        self.scored_by, self.first_block, self.token_map, self.lr = score, first_block, token_map, lr
        self.embedding_density = Gaussian(width, keep)
        self.error_density = Gaussian(depth - first_block)
        self.register_buffer("token_mean", torch.full((depth - first_block,), torch.nan))
        self.register_buffer("token_deviation", torch.full((depth - first_block,), torch.nan))

    def compare(self, images: Tensor | None, features: list[Tensor]) -> "Disagreement":
        """Run each student on its block's input, and measure its error in the block's output."""
        *tokens, embedding = features
        pairs = zip(self.students, tokens[:-1], tokens[1:], strict=True)
        errors = [(student(before).float() - after.float()).square().mean(dim=2) for student, before, after in pairs]
        size = None if images is None else [side // self.teacher.patch_size for side in images.shape[-2:]]
        return Disagreement(torch.stack(errors, dim=1), embedding, size)

    def loss(self, disagreement: "Disagreement") -> Tensor:
        """Return the mean squared error over batch, blocks and tokens: a scalar."""
        return disagreement.errors.mean()

    def detect(self, disagreement: "Disagreement") -> Prediction:
        """Return the three scores (B,), and the anomaly map (B, 1, h, w) if it is wanted."""
        errors = disagreement.errors[:, self.first_block :]
        teacher = -self.embedding_density(disagreement.embedding)
        # The mean comes before the slice: OpenVINO's mean of a slice is wrong in batches of two or more.
        blocks = -self.error_density(disagreement.errors.mean(dim=2)[:, self.first_block :])
        scores = {"teacher": teacher.float(), "blocks": blocks.float(), "both": (teacher + blocks).float()}
        anomaly_map = None
        if self.token_map and disagreement.size is not None:
            anomaly_map = self.make_patch_map(errors, disagreement.size)
        return Prediction(anomaly_map, scores[self.scored_by], scores)

    def make_patch_map(self, errors: Tensor, size: list[int]) -> Tensor:
        """Standardise the patches' errors by mean and deviation of nominal patches, and sum them over blocks:
        (B, L, N) -> (B, 1, h, w). This map is our extension."""
        standard = (self.drop_prefix(errors) - self.token_mean[:, None]) / self.token_deviation[:, None]
        anomaly_map: Tensor = standard.sum(dim=1).unflatten(1, size)[:, None]
        return anomaly_map

    def drop_prefix(self, errors: Tensor) -> Tensor:
        """Drop class and register tokens, (B, L, N) -> (B, L, h * w)."""
        return errors[:, :, self.teacher.model.num_prefix_tokens :]

    def calibrate(self, nominal: Nominal, held_out: Nominal) -> None:
        """Fit both Gaussians, and the scale of the map, in one pass over the nominal training images."""
        blocks = len(self.token_mean)
        embeddings, errors, tokens = Moments(self.teacher.model.embed_dim), Moments(blocks), Moments(blocks)
        for images, features in nominal:
            block_errors = self.compare(images, features).errors[:, self.first_block :]
            embeddings.update(features[-1])
            errors.update(block_errors.mean(dim=2))
            tokens.update(self.drop_prefix(block_errors).transpose(1, 2).flatten(0, 1))
        for moments in (embeddings, errors, tokens):
            moments.reduce(self.device)
        self.embedding_density.fit(embeddings)
        self.error_density.fit(errors)
        self.token_mean.copy_(tokens.mean)
        self.token_deviation.copy_(tokens.covariance().diagonal().sqrt().clamp(min=1e-12))

    def on_test_start(self) -> None:
        if not self.error_density.fitted:
            raise UserError(
                "Transformaly needs its Gaussians, which a fit computes before each validation, and this model has had "
                "none: train it, or give --ckpt_path"
            )

    on_predict_start = on_test_start

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.students.parameters(), lr=self.lr)


class Disagreement(NamedTuple):
    """The inputs of the scores."""

    errors: Tensor  # (B, L, N): each student's squared error in its block's output, mean over width
    embedding: Tensor  # (B, D): the teacher's embedding of the image
    size: list[int] | None  # (h, w) of the patches; None if only cached features are given


class TokenTeacher(Teacher):
    """A ViT teacher that returns its tokens before and after every block, and its final embedding."""

    def __init__(self, name: str, weights: str = "hub") -> None:
        super().__init__(name, (), weights, norm=True)

    def _prune(self, model: Any) -> Any:
        if not isinstance(model, VisionTransformer):
            raise UserError(
                f"Transformaly needs a plain ViT, whose blocks take tokens and nothing else; timm's {self.name} is a "
                f"{type(model).__name__}: choose one of vit_*, deit*"
            )
        self.taps = (len(model.blocks) - 1,)  # keeps all blocks and drops the classifier
        return super()._prune(model)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> the tokens (B, N, D) before block 0, those after each block, and the embedding
        (B, D).

        The embedding is the class token after the final norm, or the mean of all tokens if there is no class token.
        """
        self.check_size(images)
        model = self.model
        with torch.no_grad():
            tokens = [model.norm_pre(model._pos_embed(model.patch_embed(self.normalize(images))))]
            for block in model.blocks:
                tokens.append(block(tokens[-1]))
            final = model.norm(tokens[-1])
        return [*tokens, final[:, 0] if model.has_class_token else final.mean(dim=1)]
