"""Brightness, contrast, sharpness and colour against the formulas by hand; and which of them changed most."""

import json

import numpy as np
import pytest

from lit_ad.deploy.looks import LOOKS, compare_looks, measure_look


@pytest.mark.parametrize("size", [(8, 40), (1, 1), (100, 700), (9, 256)])
def test_a_look_agrees_with_the_formulas(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    left = max(0, (size[1] - 256) // 2)
    part = pixels[:: -(-size[0] // 8), left : left + 256].astype(np.float64)
    red, green, blue = (part[..., channel] for channel in range(3))
    steps = np.abs(np.diff(green, axis=1))
    expected = [part.mean(), green.std(), steps.mean() if steps.size else 0, red.mean() - part.mean()]
    assert json.loads(measure_look(pixels)) == pytest.approx([*expected, blue.mean() - part.mean()], abs=2e-3)


def test_the_largest_change_comes_first() -> None:
    generator = np.random.default_rng(1)

    def looks(brighter: float) -> list[str]:
        return [
            measure_look(
                (generator.normal(100 + generator.normal(0, 2), 10, (32, 32, 3)) + brighter).clip(0, 255).astype("u1")
            )
            for _ in range(30)
        ]

    before = looks(0)
    brightness, *others = compare_looks(before, looks(20))
    assert brightness.name == "brightness" and 5 < brightness.deviations < 20
    assert brightness.after - brightness.before == pytest.approx(20, abs=2)
    assert {move.name for move in others} == {*LOOKS} - {"brightness"}
    assert abs(others[0].deviations) < 2
    assert compare_looks(before[:1], before) == compare_looks(before, []) == []
