"""One judge: content, padding, region of interest, tiles and the top fraction of a map."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from lit_ad.detector.card import Card
from lit_ad.detector.scoring import Judgement, Output, judge, top_mean
from lit_ad.errors import NotFiniteError
from lit_ad.image.view import View


def brightness(pixels: Any) -> Output:
    """Return the first channel of the pixels as the map."""
    return Output(np.asarray(pixels)[:, :1].astype(np.float32))


def inputs(*values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return grey images (H, W) as network inputs (n, 3, H, W)."""
    return np.stack([np.stack([value] * 3) for value in values])


def random_image(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 200, (height, width)).astype(np.uint8)


@pytest.mark.parametrize("top", [0.0, 0.1, 0.5])
def test_the_score_is_the_mean_of_the_highest_pixels_of_the_content(top: float) -> None:
    image = random_image(12, 10)
    image[8:] = 255  # padding
    (judgement,) = judge(brightness, inputs(image), [(0, 0, 8, 10)], Card("x", View(None), None, top))
    ordered = sorted((float(value) for value in image[:8].ravel()), reverse=True)
    expected = sum(ordered[: max(1, int(top * 80))]) / max(1, int(top * 80))
    assert judgement.score == pytest.approx(expected, rel=1e-9)
    assert judgement.network_map is not None and judgement.network_map.shape == (12, 10)


def padded_on_all_sides() -> NDArray[np.uint8]:
    """Return an image (20, 14) whose content is [3:18, 2:11], highest in its last corner, and whose padding is 255."""
    image = np.full((20, 14), 255, np.uint8)
    image[3:18, 2:11] = random_image(15, 9)
    image[17, 10] = 220
    return image


@pytest.mark.parametrize("view", [View(None), View(None, tile=8, overlap=2)])
def test_only_the_content_is_scored_wherever_the_padding_lies(view: View) -> None:
    image = padded_on_all_sides()
    (judgement,) = judge(brightness, inputs(image), [(3, 2, 18, 11)], Card("x", view, None))
    assert judgement.score == pytest.approx(220) and judgement.network_map is not None
    np.testing.assert_allclose(judgement.network_map[3:18, 2:11], image[3:18, 2:11], rtol=1e-5)


def test_tiles_hold_no_padding_and_their_scores_count_if_there_is_no_map() -> None:
    def network(pixels: Any) -> Output:
        return Output(None, np.asarray(pixels).max(axis=(1, 2, 3)).astype(np.float32))

    view = View(None, tile=16, overlap=2)  # larger than the content: the tile is filled by reflection
    (judgement,) = judge(network, inputs(padded_on_all_sides()), [(3, 2, 18, 11)], Card("x", view, None))
    assert judgement.score == 220 and judgement.network_map is None


def test_outside_the_region_of_interest_nothing_is_scored(tmp_path: Any) -> None:
    from PIL import Image

    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 255
    mask[0, 0] = 0
    Image.fromarray(mask).save(tmp_path / "roi.png")
    view = View(None, roi=tmp_path / "roi.png")
    image = random_image(4, 8)  # the region's box
    image[0, 0] = 255
    (judgement,) = judge(brightness, inputs(image), [(0, 0, 4, 8)], Card("x", view, None))
    assert judgement.score == np.delete(image.ravel(), 0).max()


def test_a_network_with_its_own_scores_is_not_scored_by_its_map() -> None:
    def network(pixels: Any) -> Output:
        return Output(
            brightness(pixels).anomaly_map, np.array([7.0], np.float32), {"part": np.array([3.0], np.float32)}
        )

    (judgement,) = judge(network, inputs(random_image(6, 6)), [(0, 0, 6, 6)], Card("x", View(None), None, 0.0, False))
    assert judgement.score == 7 and judgement.parts == {"part": 3}


def test_tiles_are_stitched_and_scored_as_one_map() -> None:
    image = random_image(40, 56)
    view = View(None, tile=16, overlap=4, tile_batch=3)
    (judgement,) = judge(brightness, inputs(image), [(0, 0, 40, 56)], Card("x", view, None, 0.1))
    assert judgement.network_map is not None
    np.testing.assert_allclose(judgement.network_map, image, rtol=1e-5)
    assert judgement.score == pytest.approx(top_mean(image.astype(np.float32), 0.1), rel=1e-5)


def test_the_highest_score_of_the_tiles_counts_and_the_map_of_padding_is_zero() -> None:
    image = random_image(24, 24)
    image[5, 6] = 250

    def network(pixels: Any) -> Output:
        maps = brightness(pixels).anomaly_map
        assert maps is not None
        return Output(maps, maps.max(axis=(1, 2, 3)), {"low": -maps.max(axis=(1, 2, 3))})

    view = View(None, tile=8, overlap=0, tile_batch=2)
    (judgement,) = judge(network, inputs(image), [(0, 0, 16, 24)], Card("x", view, None, 0.0, False))
    assert judgement.score == 250
    peaks = [float(image[row : row + 8, column : column + 8].max()) for row in (0, 8) for column in (0, 8, 16)]
    assert judgement.parts["low"] == max(-peak for peak in peaks)
    assert judgement.network_map is not None and not judgement.network_map[16:].any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    seen = np.ones((4, 5), np.float32)
    assert Judgement(seen, 1.0, (0, 0, 4, 5), {"part": 1.0}).finite
    broken = seen.copy()
    broken[3, 4] = value
    for judgement in (
        Judgement(seen, value, (0, 0, 4, 5)),
        Judgement(broken, 1.0, (0, 0, 4, 5)),
        Judgement(None, 1.0, (0, 0, 4, 5), {"part": value}),
    ):
        assert not judgement.finite
        with pytest.raises(NotFiniteError, match=r"^part\.png: its score"):
            judgement.refuse_not_finite("part.png")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_tile_that_is_not_finite_makes_the_result_not_finite(value: float) -> None:
    def network(pixels: Any) -> Output:
        black = (np.asarray(pixels) == 0).any(axis=(1, 2, 3))
        return Output(None, np.where(black, value, 1).astype(np.float32))

    image = np.full((16, 16), 9, np.uint8)
    card = Card("x", View(None, tile=8, overlap=0, tile_batch=1), None, 0.0, False)
    assert judge(network, inputs(image), [(0, 0, 16, 16)], card)[0].score == 1
    for corner in (0, 15):  # in the first and in the last tile
        broken = image.copy()
        broken[corner, corner] = 0
        assert not judge(network, inputs(broken), [(0, 0, 16, 16)], card)[0].finite


def test_maps_are_resized_to_their_images() -> None:
    """The interpolation is bilinear, and each map gets the size of its image."""
    seen = np.random.default_rng(0).random((8, 10)).astype(np.float32)
    for size in ((16, 20), (17, 20), (5, 4)):
        whole = interpolate(torch.from_numpy(seen)[None, None], size, mode="bilinear")[0, 0]
        anomaly_map = Judgement(seen, 1.0, (0, 0, 8, 10)).original_map(size)
        assert anomaly_map.dtype == np.float32
        np.testing.assert_allclose(anomaly_map, whole.numpy(), atol=1e-6)


def test_padding_is_not_in_the_map() -> None:
    seen = np.full((8, 10), 9, np.float32)
    seen[2:6] = 1
    assert (Judgement(seen, 1.0, (2, 0, 6, 10)).original_map((4, 10)) == 1).all()


def test_the_mean_of_the_highest_part_of_a_map() -> None:
    ramp = np.arange(100, dtype=np.float32)
    assert [top_mean(ramp, top) for top in (0, 0.01, 0.02, 0.05, 1)] == [99, 99, 98.5, 97, 49.5]
