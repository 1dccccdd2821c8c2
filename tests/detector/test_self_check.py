"""A check survives its form as text, and a runtime that computes other numbers is reported with both numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_ad.detector.card import Card
from lit_ad.detector.self_check import SelfCheck, compare, enlarge
from lit_ad.errors import UserError
from lit_ad.image.view import View

CARD = Card("x", View(16), None)
FILE = Path("model.onnx")


def network(pixels: Any) -> tuple[Any, Any]:
    """Return a map (the red channel around 0.3) and a score, which a card whose map is scored ignores."""
    maps = pixels[:, :1].astype(np.float32) / 255 - 0.3
    return maps, np.full(len(pixels), -7, np.float32)


def make(step: int = 1, tolerance: float = 1e-3, size: tuple[int, int] = (16, 24)) -> SelfCheck:
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 24), dtype=np.uint8)
    pixels = np.stack([enlarge(image, size) for image in images])
    maps = network(pixels)[0][:, 0]
    scores = tuple(float(anomaly_map.max()) for anomaly_map in maps)
    return SelfCheck(images, size, scores, maps[:, ::step, ::step], step, tolerance)


@pytest.mark.parametrize(("step", "size"), [(1, (16, 24)), (3, (16, 24)), (2, (40, 60))])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_equal_numbers_agree(step: int, size: tuple[int, int], batch_size: int) -> None:
    check = SelfCheck.from_text(make(step, size=size).to_text(), FILE)
    assert check.pixels.shape == (3, 3, *size) and check.step == step
    comparison = compare(network, CARD, check, batch_size)
    assert comparison.agrees and not comparison.refused
    assert comparison.largest < 2e-5  # 16 bits
    assert [row.score for row in comparison.rows] == pytest.approx([row.expected for row in comparison.rows])


@pytest.mark.parametrize(
    ("factor", "agrees", "refused"), [(1.0005, True, False), (1.003, False, False), (1.02, False, True)]
)
def test_a_difference_is_a_warning_beyond_the_tolerance_and_an_error_beyond_5_times(
    factor: float, agrees: bool, refused: bool
) -> None:
    comparison = compare(lambda pixels: (factor * network(pixels)[0], None), CARD, make())
    assert (comparison.agrees, comparison.refused) == (agrees, refused)
    assert comparison.largest == pytest.approx(factor - 1, rel=0.05)


def test_the_message_has_both_numbers() -> None:
    check = make()

    def one_pixel_off(pixels: Any) -> tuple[Any, Any]:
        maps, scores = network(pixels)
        maps[0, 0, 5, 7] -= 0.5
        return maps, scores

    told = compare(one_pixel_off, CARD, check).describe()
    expected = max(range(3), key=lambda i: 0.5 / np.abs(check.maps[i]).max())  # type: ignore[index]
    value = float(check.maps[expected, 5, 7])  # type: ignore[index]
    numbers = f"is {value - 0.5:.6g}, and the checkpoint gave {value:.6g}, a relative difference of "
    assert told.startswith(f"a pixel of the map of image {expected + 1} {numbers}")
    assert told.endswith("; the tolerance is 1e-03")
    image_level = SelfCheck(check.images, check.size, (1.0, 2.0, 3.0), None, 1, 1e-3)
    told = compare(lambda pixels: (None, np.full(1, 2, np.float32)), CARD, image_level).describe()
    assert told.startswith("the score of image 1 is 2, and the checkpoint gave 1, a relative difference of 5.0e-01")


@pytest.mark.parametrize("where", ["score", "map", "no map"])
def test_missing_numbers_and_numbers_that_are_not_finite_are_refused(where: str) -> None:
    def broken(pixels: Any) -> tuple[Any, Any]:
        maps, scores = network(pixels)
        if where == "map":
            maps[0, 0, 3, 3] = np.nan
        if where == "score":
            scores[:] = np.nan
        return (None if where == "no map" else maps), scores

    card = Card("x", View(16), None, map_scored=False)
    check = make()
    check = SelfCheck(check.images, check.size, (-7.0,) * 3, check.maps, 1, 1e-3)
    comparison = compare(broken, card, check)
    assert comparison.refused and not comparison.agrees and comparison.largest == np.inf
    assert "nan" in comparison.describe()


@pytest.mark.parametrize("change", ["no JSON", "images", "scores", "maps", "size"])
def test_a_check_that_cannot_be_read_is_an_error_that_names_the_file(change: str) -> None:
    values = json.loads(make().to_text())
    values[change] = {"images": ["AAAA"], "size": [1]}.get(change)
    text = "{" if change == "no JSON" else json.dumps(values)
    with pytest.raises(UserError, match=r"model\.onnx carries check images that cannot be read"):
        SelfCheck.from_text(text, FILE)
