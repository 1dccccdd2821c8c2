"""The resize gives the same pixels with every version of Pillow."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from lit_ad.image.resize import resize


@pytest.mark.parametrize(
    ("size", "digest"),  # by Pillow 12.3's own resize, in one step
    [((20, 36), "9a88ca1345e5e73c"), ((60, 12), "3a5265bf65ed72be"), ((150, 90), "99bfb17d0e59b39e")],
)
def test_pixels_equal_those_of_pillow_12(size: tuple[int, int], digest: str) -> None:
    rows, columns = np.indices((120, 40))
    image = ((rows * 37 + columns * 91 + rows * columns * 13) % 256).astype(np.uint8)
    resized = resize(np.stack([image, image.T.reshape(120, 40), 255 - image], -1), size, Image.Resampling.BILINEAR)
    assert hashlib.sha256(resized.tobytes()).hexdigest()[:16] == digest
