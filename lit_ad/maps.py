"""Pure functions on anomaly maps."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def upsample(anomaly_map: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize, (B, C, h, w) -> (B, C, *size) float32."""
    return interpolate(anomaly_map.float(), size=size, mode="bilinear", align_corners=False)


def product(maps: list[Tensor], size: tuple[int, int]) -> Tensor:
    """Product of the maps of several levels at one size, L x (B, 1, h_l, w_l) -> (B, 1, *size)."""
    result = upsample(maps[0], size)
    for level in maps[1:]:
        result = result * upsample(level, size)
    return result


def crop(anomaly_map: Tensor, canvas: tuple[int, int], box: tuple[int, int, int, int]) -> Tensor:
    """The content of a padded image, (B, 1, h, w) -> (B, 1, h', w').

    `canvas` is the network's input size and `box` = (top, left, bottom, right) the image's content in its pixels. A map
    of a padded image is brought to the canvas first, so that the cut is exact.
    """
    if box == (0, 0, *canvas):
        return anomaly_map
    top, left, bottom, right = box
    full = anomaly_map if anomaly_map.shape[-2:] == canvas else upsample(anomaly_map, canvas)
    return full[..., top:bottom, left:right]


def clip(anomaly_map: Tensor, quantile: float) -> Tensor:
    """Values above each map's own quantile (interpolated) become it, (B, 1, h, w) -> the same shape."""
    values = anomaly_map.flatten(1).sort(dim=1).values  # torch.quantile refuses more than 2^24 values
    position = quantile * (values.shape[1] - 1)
    below, above = values[:, int(position)], values[:, min(int(position) + 1, values.shape[1] - 1)]
    return anomaly_map.minimum(torch.lerp(below, above, position % 1).view(-1, 1, 1, 1))


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
