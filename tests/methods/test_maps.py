"""Functions on maps against SciPy, OpenCV and NumPy."""

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage

from lit_ad.methods.maps import clip, gaussian_blur, opening, product, upsample


@pytest.fixture
def anomaly_map() -> torch.Tensor:
    return torch.rand(2, 1, 12, 17, generator=torch.Generator().manual_seed(0))


def test_upsample_is_opencvs_bilinear(anomaly_map: torch.Tensor) -> None:
    large = upsample(anomaly_map.half(), (31, 40))
    assert large.dtype == torch.float32
    expected = [
        cv2.resize(m.half().float().numpy(), (40, 31), interpolation=cv2.INTER_LINEAR) for m in anomaly_map[:, 0]
    ]
    np.testing.assert_allclose(large[:, 0].numpy(), np.stack(expected), atol=1e-5)


def test_product_multiplies_at_one_size(anomaly_map: torch.Tensor) -> None:
    coarse = torch.full((2, 1, 3, 4), 2.0)
    torch.testing.assert_close(product([coarse, anomaly_map, coarse], (12, 17)), 4 * anomaly_map)


def test_a_map_of_that_size_is_left_alone(anomaly_map: torch.Tensor) -> None:
    assert upsample(anomaly_map, (12, 17)) is anomaly_map
    assert upsample(anomaly_map.half(), (12, 17)).dtype == torch.float32


def test_clip_at_each_maps_own_quantile(anomaly_map: torch.Tensor) -> None:
    scaled = anomaly_map * torch.tensor([1.0, 5.0]).view(2, 1, 1, 1)
    expected = [np.minimum(m, np.quantile(m, 0.9)) for m in scaled.numpy()]
    np.testing.assert_allclose(clip(scaled, 0.9).numpy(), np.stack(expected), rtol=1e-5)


def test_gaussian_blur_is_scipys(anomaly_map: torch.Tensor) -> None:
    large = torch.rand(1, 1, 50, 60)
    expected = ndimage.gaussian_filter(large[0, 0].numpy(), 2.0, mode="mirror", truncate=4.0)
    np.testing.assert_allclose(gaussian_blur(large, 2.0)[0, 0].numpy(), expected, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert gaussian_blur(anomaly_map, 1.0).dtype == torch.float32


def test_opening_is_scipys(anomaly_map: torch.Tensor) -> None:
    mask = torch.zeros(1, 1, 20, 20, dtype=torch.bool)
    mask[..., 3:9, 3:9] = True
    mask[..., 15, 15] = True  # a speck
    expected = ndimage.binary_opening(mask[0, 0].numpy(), ndimage.generate_binary_structure(2, 1))
    assert np.array_equal(opening(mask)[0, 0].numpy(), expected) and not opening(mask)[0, 0, 15, 15]
