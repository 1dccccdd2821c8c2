"""Pictures: one scale of colours for all, the truth outlined, the title told."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lit_ad.callbacks import Heatmaps, heatmaps
from lit_ad.callbacks.heatmaps import draw
from lit_ad.data import AnomalyDataModule, MVTec
from lit_ad.decision import Decision

GREY = np.full((64, 64, 3), 128, np.uint8)


def panel(picture: object, number: int) -> np.ndarray:
    """Panel 0 (image) or 1 (heat) of a picture whose panels are 100 pixels wide."""
    return np.asarray(picture)[22:, number * 104 : number * 104 + 100]


def heat_of(value: float) -> np.ndarray:
    heat = np.zeros((64, 64), np.float32)
    heat[16:32, 16:32] = value
    return heat


def test_equal_values_have_equal_colours_in_every_picture() -> None:
    first = panel(draw(GREY, heat_of(0.5), None, (0.0, 1.0), "a", 100), 1)
    brighter = np.maximum(heat_of(0.5), np.roll(heat_of(5.0), 20, 1))  # a hotter spot elsewhere changes nothing here
    second = panel(draw(GREY, brighter, None, (0.0, 1.0), "b", 100), 1)
    assert np.array_equal(first[30:45, 30:45], second[30:45, 30:45])
    assert not np.array_equal(first[35, 35], first[90, 90])


def test_truth_is_outlined_on_both_panels_where_it_lies() -> None:
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[16:48, 16:48] = True
    picture = draw(GREY, heat_of(1.0), mask, (0.0, 1.0), "c", 100)
    for number in (0, 1):
        green = (panel(picture, number) == (0, 255, 0)).all(axis=2)
        rows, columns = np.nonzero(green)
        assert abs(rows.min() - 25) <= 1
        assert abs(rows.max() - 75) <= 1
        assert abs(columns.min() - 25) <= 1
        assert not green[35:65, 35:65].any()  # an outline, not a filling


def test_panels_keep_the_images_proportions() -> None:
    picture = draw(GREY, np.zeros((40, 120), np.float32), None, (0.0, 1.0), "", 50)
    assert picture.size == (2 * 150 + 4, 50 + 22)


def test_an_image_level_method_shows_its_image() -> None:
    assert draw(GREY, None, None, None, "", 100).size == (100, 122)


def colour(level: float) -> np.ndarray:
    """Of a heat between 0, where colours begin, and 1, over black."""
    import cv2

    value = np.full((1, 1), int(255 * level), np.uint8)
    return 0.65 * cv2.applyColorMap(value, cv2.COLORMAP_INFERNO)[0, 0, ::-1].astype(float)


def test_the_range_ends_at_the_hottest_colour() -> None:
    """A heat at the range's middle has the middle colour: a range nine times as wide would show it as cold."""
    black = np.zeros((64, 64, 3), np.uint8)
    for value, level in ((2.0, 0.0), (5.0, 0.5), (8.0, 1.0), (99.0, 1.0)):
        heat = np.full((64, 64), value, np.float32)
        middle = panel(draw(black, heat, None, (2.0, 8.0), "", 100), 1)[50, 50].astype(float)
        assert middle == pytest.approx(colour(level), abs=4), value


def test_pictures_tell_the_verdict_the_truth_and_use_the_decisions_colours(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, tuple[Any, ...]] = {}

    def watch(image: Any, heat: Any, mask: Any, span: Any, title: str, height: int) -> Image.Image:
        seen[title] = (image, heat, mask, span)
        return draw(image, heat, mask, span, title, height)

    monkeypatch.setattr(heatmaps, "draw", watch)
    model = brightness()
    model.decision = Decision({"nut": [0.85]}, {"nut": [0.9]}, {"nut": [0.4]}, 0.5)  # type: ignore[dict-item]
    data = AnomalyDataModule(MVTec(parts / "nut"), model.view, num_workers=0)
    quiet_trainer(tmp_path / "run", Heatmaps(height=64)).test(model, data, verbose=False)
    assert len(seen) == 7
    for title, (image, heat, mask, span) in seen.items():
        name, score, verdict, truth = title.replace("score ", "").replace("truth: ", "").split("   ")
        assert span == pytest.approx((0.4, 1.4))
        assert verdict == ("anomalous" if float(score) > 0.85 else "nominal")
        assert mask.any() == (truth == "dent")
        file = parts / "nut/test" / truth / name
        assert np.array_equal(image[..., 0], np.asarray(Image.open(file)))
        assert heat == pytest.approx(image[..., 0] / 255)
        assert (tmp_path / "run/heatmaps/nut" / truth / name).is_file()
    assert {title.split("   ")[2] for title in seen} == {"nominal", "anomalous"}
