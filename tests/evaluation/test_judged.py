"""A judged image."""

from pathlib import Path

import numpy as np
import torch

from lit_ad.batch import Batch, Sample
from lit_ad.evaluation.judged import content
from lit_ad.image.view import View


def test_cropped_pixels_are_black() -> None:
    """The picture has the proportions of the complete image, as map and mask have."""
    image = np.random.default_rng(0).integers(1, 256, (32, 32, 3)).astype(np.uint8)
    pixels, box = View(32, crop=16)(image)
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
    batch = Batch(tensor, torch.arange(1), [Sample(Path("0.png"), 0)], [(32, 32)], [box])
    expected = np.zeros_like(image)
    expected[8:24, 8:24] = image[8:24, 8:24]
    assert np.array_equal(content(batch, 0), expected)
