"""One resize of images, the same pixels by every version of Pillow. Pillow only.

Pillow rounds to whole grey levels between the two axes, so that their order makes a difference of a level here and
there. Up to version 12 it makes an image narrower first and then lower; version 13 does the opposite with some images
that lose more height than width. A detector outlives a version, so the order here is always that of version 12.
"""

import numpy as np
from PIL import Image

from lit_ad.image.pixels import Pixels, Size


def resize(image: Pixels, size: Size, method: Image.Resampling) -> Pixels:
    """(H, W, 3) or (H, W) uint8 -> (h, w, 3) or (h, w), antialiased: first along rows, then along columns."""
    height, width = size
    narrow = Image.fromarray(image).resize((width, image.shape[0]), method)
    return np.asarray(narrow.resize((width, height), method))
