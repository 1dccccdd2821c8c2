"""L2BT: Learning to Be a Transformer to Pinpoint Anomalies (Costanzino et al., IEEE Access 2025).

Two small MLPs learn on nominal patches to predict a frozen ViT's late tokens from its early ones, and back; on
anomalous patches both fail. They see one token at a time, so images may be large.
Shapes: B batch, D token width, N = h * w patches, (H, W) image.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize, pad

from lit_ad.batch import Prediction
from lit_ad.errors import UserError
from lit_ad.image.view import View
from lit_ad.methods.base import Method
from lit_ad.methods.maps import upsample
from lit_ad.teachers import Teacher


class L2BT(Method):
    """Token students of any timm ViT, between two of its blocks. They need no pixels once features are cached.

    Args:
        backbone: timm name with the tag of its weights; the paper's is DINOv2 ViT-B/14 with registers.
        taps: The early and the late block, from 0.
        weights: The teacher's: hub, hf-hub:OWNER/REPO, or a file.
        view: How images become network inputs.
        top: Fraction of the map's pixels, the highest, whose mean is an image's score.
        lr: Adam. The paper's, at which 50 epochs converge with small sets as well; the authors' code has 1e-4.
    """

    needs_pixels = False

    def __init__(
        self,
        backbone: str = "vit_base_patch14_reg4_dinov2.lvd142m",
        taps: Sequence[int] = (7, 11),
        weights: str = "hub",
        view: View = View(1036, fit="pad", interpolation="bicubic"),
        top: float = 0.001,
        lr: float = 1e-3,
    ) -> None:
        if len(taps) != 2 or taps[0] >= taps[1]:
            raise UserError(
                f"L2BT works between two blocks: model.taps must be an early and then a late one, not {list(taps)}"
            )
        if not 0 < top <= 1:
            raise UserError(f"model.top is a fraction of the map's pixels, above 0 and up to 1, not {top}")
        teacher = Teacher(backbone, taps, weights, norm=True)
        if not teacher.is_vit:
            raise UserError(f"L2BT needs a ViT, whose tokens all have one width, and {backbone} is none")
        super().__init__(view.of_multiple(teacher.patch_size))
        self.teacher = teacher
        width = self.teacher.channels[0]
        self.forward_student, self.backward_student = mlp(width), mlp(width)  # early -> late, late -> early
        self.top, self.lr = top, lr

    def compare(self, images: Tensor | None, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Early and late maps of the teacher, and what the students say of them: 2 x 2 x (B, D, h, w) in float32."""
        early, late = features
        students = [self.forward_student(tokens(early)), self.backward_student(tokens(late))]
        predicted = [student.float().transpose(1, 2).unflatten(2, early.shape[-2:]) for student in students]
        return predicted, [late.float(), early.float()]

    def loss(self, disagreement: tuple[list[Tensor], list[Tensor]]) -> Tensor:
        """One minus the cosine, mean over tokens, both directions."""
        return sum((1 - cosine_similarity(s, t, dim=1)).mean() for s, t in zip(*disagreement, strict=True))  # type: ignore[return-value]

    def detect(self, disagreement: tuple[list[Tensor], list[Tensor]]) -> Prediction:
        """Product of both directions' distances, at the image's resolution and blurred."""
        forward, backward = (distance(s, t) for s, t in zip(*disagreement, strict=True))
        patches = forward * backward
        height, width = (side * self.teacher.patch_size for side in patches.shape[-2:])
        return Prediction(blur(upsample(patches, (height, width))))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        students = [*self.forward_student.parameters(), *self.backward_student.parameters()]
        return torch.optim.Adam(students, lr=self.lr)


def mlp(width: int) -> nn.Sequential:
    """(..., D) -> (..., D)."""
    return nn.Sequential(
        nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
    )


def tokens(level: Tensor) -> Tensor:
    """(B, D, h, w) -> (B, N, D)."""
    return level.flatten(2).transpose(1, 2)


def distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Distance of unit vectors: 2 x (B, D, h, w) float32 -> (B, 1, h, w)."""
    distances: Tensor = (normalize(student) - normalize(teacher)).norm(dim=1, keepdim=True)
    return distances


def blur(anomaly_map: Tensor) -> Tensor:
    """Box filters, five of 5x5 and three of 7x7: (B, 1, H, W) -> the same shape, in float32."""
    with torch.autocast(anomaly_map.device.type, enabled=False):
        result = anomaly_map.float()
        for side in (5, 5, 5, 5, 5, 7, 7, 7):
            result = box(result, side)
    return result


def box(anomaly_map: Tensor, side: int) -> Tensor:
    """Mean over side x side pixels, edges reflected, as kornia's box_blur, which takes 40 times as long on a CPU."""
    for axis, padding in ((2, (0, 0, side // 2, side // 2)), (3, (side // 2, side // 2, 0, 0))):
        length = anomaly_map.shape[axis]
        padded = pad(anomaly_map, padding, mode="reflect")
        total = padded.narrow(axis, 0, length).clone()
        for shift in range(1, side):
            total += padded.narrow(axis, shift, length)
        anomaly_map = total / side
    return anomaly_map
