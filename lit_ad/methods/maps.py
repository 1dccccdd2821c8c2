"""Pure functions on anomaly maps."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def upsample(anomaly_map: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize, (B, C, h, w) -> (B, C, *size) float32."""
    if anomaly_map.shape[-2:] == size:
        return anomaly_map.float()
    return interpolate(anomaly_map.float(), size=size, mode="bilinear", align_corners=False)


def product(maps: list[Tensor], size: tuple[int, int]) -> Tensor:
    """Product of the maps of several levels at one size, L x (B, 1, h_l, w_l) -> (B, 1, *size)."""
    result = upsample(maps[0], size)
    for level in maps[1:]:
        result = result * upsample(level, size)
    return result


def clip(anomaly_map: Tensor, fraction: float) -> Tensor:
    """Values above each map's own quantile become it, (B, 1, h, w) -> the same shape."""
    return anomaly_map.minimum(quantile(anomaly_map.flatten(1), fraction).view(-1, 1, 1, 1))


def quantile(values: Tensor, fraction: float) -> Tensor:
    """Interpolated quantile of each row, (B, n) -> (B,). torch.quantile refuses more than 2^24 values."""
    ordered = values.sort(dim=1).values
    position = fraction * (values.shape[1] - 1)
    below, above = ordered[:, int(position)], ordered[:, min(int(position) + 1, values.shape[1] - 1)]
    return torch.lerp(below, above, position % 1)


def gaussian_blur(anomaly_map: Tensor, sigma: float) -> Tensor:
    """Gaussian of four sigmas each way, edges reflected: (B, C, h, w) -> the same shape, float32 under autocast too."""
    from kornia.filters import gaussian_blur2d  # here, because importing kornia takes seconds that few runs need

    with torch.autocast(anomaly_map.device.type, enabled=False):
        height, width = (2 * min(round(4 * sigma), side - 1) + 1 for side in anomaly_map.shape[-2:])
        return gaussian_blur2d(anomaly_map.float(), (height, width), (sigma, sigma))


def opening(mask: Tensor) -> Tensor:
    """Remove specks from binary masks by a 3x3 ellipse, (B, 1, H, W) bool -> the same."""
    from kornia import morphology

    ellipse = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0]], device=mask.device)
    return morphology.opening(mask.float(), ellipse) > 0.5
