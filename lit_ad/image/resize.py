"""Resize images, to the same pixels with every version of Pillow, and maps. NumPy and Pillow only.

Pillow resizes one axis after the other, and rounds to whole grey levels in between, so the order of the axes changes
some pixels by one level. Pillow 12 changes the width first. Pillow 13 changes the height first for some images that
lose more height than width. A detector is used longer than a version of Pillow, so the order here is always that of
Pillow 12.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lit_ad.image.pixels import Pixels, Size


def resize(image: Pixels, size: Size, method: Image.Resampling) -> Pixels:
    """Resize an image (H, W, 3) or (H, W) uint8 to `size` (h, w), antialiased: first the width, then the height."""
    height, width = size
    new_width = Image.fromarray(image).resize((width, image.shape[0]), method)
    return np.asarray(new_width.resize((width, height), method))


def resize_bilinear(values: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """Resize a map (h, w) to `size` by bilinear interpolation between pixel centres.

    It gives what torch's `interpolate` gives with align_corners=False and without antialiasing.
    """
    for axis, length in enumerate(size):
        old_length = values.shape[axis]
        if old_length == length:
            continue
        position = np.clip((np.arange(length) + 0.5) * (old_length / length) - 0.5, 0, old_length - 1)
        low = position.astype(np.int64)
        weight = (position - low).astype(np.float32)
        weight = weight[:, None] if axis == 0 else weight
        below, above = np.take(values, low, axis), np.take(values, np.minimum(low + 1, old_length - 1), axis)
        above -= below
        above *= weight
        below += above
        values = below
    return values
