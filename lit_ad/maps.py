"""Pure functions on anomaly maps."""

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
