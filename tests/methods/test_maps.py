"""These tests compare functions on maps with SciPy, OpenCV and NumPy."""

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage

from lit_ad.methods.maps import clip, multiply_maps, smooth_map, upsample


@pytest.fixture
def anomaly_map() -> torch.Tensor:
    return torch.rand(2, 1, 12, 17, generator=torch.Generator().manual_seed(0))


def test_upsample_equals_opencvs_bilinear_resize(anomaly_map: torch.Tensor) -> None:
    large = upsample(anomaly_map.half(), (31, 40))
    assert large.dtype == torch.float32
    expected = [
        cv2.resize(m.half().float().numpy(), (40, 31), interpolation=cv2.INTER_LINEAR) for m in anomaly_map[:, 0]
    ]
    np.testing.assert_allclose(large[:, 0].numpy(), np.stack(expected), atol=1e-5)


def test_product_multiplies_maps_at_one_size(anomaly_map: torch.Tensor) -> None:
    coarse = torch.full((2, 1, 3, 4), 2.0)
    torch.testing.assert_close(multiply_maps([coarse, anomaly_map, coarse], (12, 17)), 4 * anomaly_map)


def test_upsample_returns_a_map_of_the_right_size_unchanged(anomaly_map: torch.Tensor) -> None:
    assert upsample(anomaly_map, (12, 17)) is anomaly_map
    assert upsample(anomaly_map.half(), (12, 17)).dtype == torch.float32


def test_clip_cuts_each_map_at_its_own_quantile(anomaly_map: torch.Tensor) -> None:
    scaled = anomaly_map * torch.tensor([1.0, 5.0]).view(2, 1, 1, 1)
    expected = [np.minimum(m, np.quantile(m, 0.9)) for m in scaled.numpy()]
    np.testing.assert_allclose(clip(scaled, 0.9).numpy(), np.stack(expected), rtol=1e-5)


# Maps smaller than the Gaussian's radius, which is 16 pixels, are mirrored more than once.
@pytest.mark.parametrize("size", [(50, 60), (256, 256), (7, 90), (1, 5)])
@pytest.mark.parametrize("sigma", [4.0, 2.125, 0.1])
def test_gaussian_blur_equals_scipys(size: tuple[int, int], sigma: float) -> None:
    maps = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0))
    expected = np.stack([ndimage.gaussian_filter(one.double().numpy(), sigma) for one in maps[:, 0]])
    np.testing.assert_allclose(smooth_map(maps, sigma)[:, 0].numpy(), expected, rtol=2e-6)


def test_gaussian_blur_with_a_radius_and_zeros_outside_equals_scipys() -> None:
    one = torch.rand(1, 1, 9, 12)
    expected = ndimage.gaussian_filter(one[0, 0].double().numpy(), 4.0, mode="constant", radius=2)
    np.testing.assert_allclose(smooth_map(one, 4.0, 2, "constant")[0, 0].numpy(), expected, rtol=2e-6)


def test_gaussian_blur_is_float32_under_autocast(anomaly_map: torch.Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(smooth_map(anomaly_map, 1.0), smooth_map(anomaly_map.float(), 1.0))
        assert smooth_map(anomaly_map.bfloat16(), 1.0).dtype == torch.float32


def test_gaussian_blur_in_an_exported_graph_equals_gaussian_blur_outside() -> None:
    class Blur(torch.nn.Module):
        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            return smooth_map(maps, 4.0)

    dynamic = {"maps": {0: torch.export.Dim("batch")}}
    graph = torch.export.export(Blur(), (torch.rand(2, 1, 20, 24),), dynamic_shapes=dynamic).module()
    maps = torch.rand(3, 1, 20, 24)
    torch.testing.assert_close(graph(maps), smooth_map(maps, 4.0), rtol=2e-6, atol=0)
