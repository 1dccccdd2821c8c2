"""L2BT: Learning to Be a Transformer to Pinpoint Anomalies (Costanzino et al., IEEE Access 2025).

On nominal patches, one small MLP learns to predict a frozen ViT's late tokens from its early ones, and a second MLP the
early from the late. On anomalous patches both fail. Each MLP sees one token at a time, so images may be large.
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
    """Two token students between two blocks of any timm ViT. They need no pixels once features are cached.

    Args:
        backbone: timm name with the tag of its weights; the paper's is DINOv2 ViT-B/14 with registers.
        taps: Indices of the early and the late block, from 0.
        weights: Source of the teacher's weights: hub, hf-hub:OWNER/REPO, or a file.
        view: How images become network inputs.
        top: An image's score is the mean of this fraction of its map's pixels, the highest.
        lr: Learning rate of Adam, from the paper; 50 epochs converge also with small sets. The authors' code has 1e-4.
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
            raise UserError(f"L2BT takes two blocks: model.taps must be an early and then a late one, not {list(taps)}")
        if not 0 < top <= 1:
            raise UserError(f"model.top is a fraction of the map's pixels, above 0 and up to 1, not {top}")
        teacher = Teacher(backbone, taps, weights, norm=True)
        if not teacher.is_vit:
            raise UserError(
                f"L2BT needs a ViT, whose tokens all have the same width, but {backbone} is not one: choose one of "
                "vit_*, deit*"
            )
        super().__init__(view.of_multiple(teacher.patch_size))
        self.teacher = teacher
        width = self.teacher.channels[0]
        self.forward_student, self.backward_student = make_mlp(width), make_mlp(width)  # early -> late, late -> early
        self.top, self.lr = top, lr

    def compare(self, images: Tensor | None, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the students' predictions of the late and the early maps, then the teacher's late and early maps:
        2 x 2 x (B, D, h, w) in float32."""
        early, late = features
        students = [self.forward_student(_to_tokens(early)), self.backward_student(_to_tokens(late))]
        predicted = [student.float().transpose(1, 2).unflatten(2, early.shape[-2:]) for student in students]
        return predicted, [late.float(), early.float()]

    def loss(self, disagreement: tuple[list[Tensor], list[Tensor]]) -> Tensor:
        """Return one minus the cosine, mean over tokens, summed over both directions: a scalar."""
        return sum((1 - cosine_similarity(s, t, dim=1)).mean() for s, t in zip(*disagreement, strict=True))  # type: ignore[return-value]

    def detect(self, disagreement: tuple[list[Tensor], list[Tensor]]) -> Prediction:
        """Multiply both directions' distances, and blur the product at the image's resolution: (B, 1, H, W)."""
        forward, backward = (measure_distance(s, t) for s, t in zip(*disagreement, strict=True))
        patches = forward * backward
        height, width = (side * self.teacher.patch_size for side in patches.shape[-2:])
        return Prediction(blur(upsample(patches, (height, width))))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        students = [*self.forward_student.parameters(), *self.backward_student.parameters()]
        return torch.optim.Adam(students, lr=self.lr)


def make_mlp(width: int) -> nn.Sequential:
    """Make an MLP of three linear layers, (..., D) -> (..., D), where D is `width`."""
    return nn.Sequential(
        nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
    )


def _to_tokens(level: Tensor) -> Tensor:
    """Flatten a map to tokens, (B, D, h, w) -> (B, N, D)."""
    return level.flatten(2).transpose(1, 2)


def measure_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the distances between unit vectors: 2 x (B, D, h, w) float32 -> (B, 1, h, w)."""
    distances: Tensor = (normalize(student) - normalize(teacher)).norm(dim=1, keepdim=True)
    return distances


def blur(anomaly_map: Tensor) -> Tensor:
    """Apply five box filters of 5x5 and three of 7x7: (B, 1, H, W) -> the same shape, in float32."""
    with torch.autocast(anomaly_map.device.type, enabled=False):
        result = anomaly_map.float()
        for side in (5, 5, 5, 5, 5, 7, 7, 7):
            result = apply_box_filter(result, side)
    return result


def apply_box_filter(anomaly_map: Tensor, side: int) -> Tensor:
    """Average over side x side pixels, with reflected edges: (B, 1, H, W) -> the same shape. kornia does the same
    in 40 times the time on a CPU."""
    for axis, padding in ((2, (0, 0, side // 2, side // 2)), (3, (side // 2, side // 2, 0, 0))):
        length = anomaly_map.shape[axis]
        padded = pad(anomaly_map, padding, mode="reflect")
        total = padded.narrow(axis, 0, length).clone()
        for shift in range(1, side):
            total += padded.narrow(axis, shift, length)
        anomaly_map = total / side
    return anomaly_map
