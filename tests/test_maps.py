"""Map functions against NumPy, SciPy and OpenCV."""

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from lit_ad.maps import clip, gaussian_blur, opening


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99, 1.0])
def test_clip_is_numpys_quantile_of_each_map(quantile: float) -> None:
    maps = torch.randn(3, 1, 7, 9)
    for found, given in zip(clip(maps, quantile), maps, strict=True):
        expected = np.minimum(given.numpy(), np.quantile(given.numpy(), quantile))
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("size", [(40, 33), (64, 18)])
def test_gaussian_blur_is_scipys(size: tuple[int, int]) -> None:
    maps = torch.rand(2, 1, *size)
    for found, given in zip(gaussian_blur(maps, 4.0), maps, strict=True):
        expected = gaussian_filter(given[0].double().numpy(), 4, mode="mirror")  # SciPy, too, goes four sigmas out
        np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-5)


def test_gaussian_blur_of_small_maps_and_halves() -> None:
    flat = gaussian_blur(torch.full((1, 1, 5, 1), 3.0), 4.0)
    torch.testing.assert_close(flat, torch.full((1, 1, 5, 1), 3.0))
    maps = torch.rand(1, 1, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(gaussian_blur(maps, 2.0), gaussian_blur(maps.double(), 2.0))


def test_opening_is_opencvs() -> None:
    masks = torch.rand(4, 1, 30, 40) > 0.3
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    for found, given in zip(opening(masks), masks, strict=True):
        expected = cv2.morphologyEx(given[0].numpy().astype(np.uint8), cv2.MORPH_OPEN, ellipse)
        assert np.array_equal(found[0].numpy(), expected.astype(bool))
    assert 0 < int(opening(masks).sum()) < int(masks.sum())
