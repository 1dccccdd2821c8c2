"""Pure functions on anomaly maps."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def upsample(anomaly_map: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps bilinearly, (B, C, h, w) -> (B, C, *size) float32."""
    if anomaly_map.shape[-2:] == size:
        return anomaly_map.float()
    return interpolate(anomaly_map.float(), size=size, mode="bilinear", align_corners=False)


def multiply_maps(maps: list[Tensor], size: tuple[int, int]) -> Tensor:
    """Multiply the maps of several levels at one size, L x (B, 1, h_l, w_l) -> (B, 1, *size)."""
    result = upsample(maps[0], size)
    for level in maps[1:]:
        result = result * upsample(level, size)
    return result


def clip(anomaly_map: Tensor, fraction: float) -> Tensor:
    """Limit each map to its own quantile `fraction`: higher values become that quantile. (B, 1, h, w) -> same shape."""
    return anomaly_map.minimum(interpolate_quantile(anomaly_map.flatten(1), fraction).view(-1, 1, 1, 1))


def interpolate_quantile(values: Tensor, fraction: float) -> Tensor:
    """Return the interpolated quantile of each row, (B, n) -> (B,). torch.quantile refuses more than 2^24 values."""
    ordered = values.sort(dim=1).values
    position = fraction * (values.shape[1] - 1)
    below, above = ordered[:, int(position)], ordered[:, min(int(position) + 1, values.shape[1] - 1)]
    return torch.lerp(below, above, position % 1)


def smooth_map(
    anomaly_map: Tensor, sigma: float, radius: int | None = None, mode: Literal["reflect", "constant"] = "reflect"
) -> Tensor:
    """Smooth maps by a Gaussian, as scipy.ndimage.gaussian_filter does: (B, C, h, w) -> the same shape, in float32 also
    under autocast.

    Args:
        anomaly_map: (B, C, h, w).
        sigma: Standard deviation in pixels of the map, above 0.
        radius: The Gaussian is cut this many pixels from its centre. None: SciPy's four sigmas, rounded.
        mode: How the map continues beyond its border, in SciPy's terms. "reflect" mirrors the map and repeats the edge
            pixel (c b a | a b c); torch's and kornia's "reflect" do not repeat it (c b | a b c). "constant": zeros.
    """
    from kornia.filters import gaussian_blur2d  # imported here: it takes half a second, and few runs need it

    radius = int(4 * sigma + 0.5) if radius is None else radius
    with torch.autocast(anomaly_map.device.type, enabled=False):
        padded = anomaly_map.float()
        if mode == "reflect":
            padded = mirror(mirror(padded, 2, radius), 3, radius)
        blurred = gaussian_blur2d(padded, 2 * radius + 1, (sigma, sigma), "constant")
    if mode == "constant":
        return blurred
    height, width = anomaly_map.shape[-2:]
    return blurred[..., radius : radius + height, radius : radius + width]


def mirror(anomaly_map: Tensor, axis: int, margin: int) -> Tensor:
    """Extend a map at both ends of an axis by its mirror image, edge pixel included; a margin longer than the map
    repeats the mirroring: (..., n, ...) -> (..., margin + n + margin, ...)."""
    side = anomaly_map.shape[axis]
    places = torch.arange(-margin, side + margin, device=anomaly_map.device) % (2 * side)
    return anomaly_map.index_select(axis, places.minimum(2 * side - 1 - places))
