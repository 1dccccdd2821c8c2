"""sPRO equals its published definition, computed one threshold and one defect at a time."""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_ad.metrics import AUPRO, SPRO, NotFinite, state
from lit_ad.metrics.spro import LIMITS

KEYS = ("spro_01", "spro_05", "spro_10", "spro_30", "spro_100")


class Image(NamedTuple):
    scores: np.ndarray  # (H, W)
    defects: np.ndarray  # (D, H, W)
    saturation: list[int]


def random_images(seed: int, number: int = 4, decimals: int = 9) -> list[Image]:
    """Return images of several sizes, some without defects. Defects may have several blobs and may overlap."""
    random, images = np.random.default_rng(seed), []
    for index in range(number):
        height, width = random.integers(15, 25, 2)
        defects = np.zeros((random.integers(1, 4) if index else 0, height, width), bool)
        for defect in defects:
            for _ in range(random.integers(1, 3)):
                row, column, size = random.integers(0, 15), random.integers(0, 15), random.integers(1, 9)
                defect[row : row + size, column : column + size] = True
        scores = random.standard_normal((height, width)) + 1.5 * defects.any(axis=0)
        saturation = [int(random.integers(1, defect.sum() + 1)) for defect in defects]
        images.append(Image(np.round(scores, decimals).astype(np.float32), defects, saturation))
    return images


def curve(images: list[Image]) -> list[tuple[float, float]]:
    """Return the points by definition: share of other pixels, mean over defects of min(TP / s, 1) at each threshold."""
    nominal = np.concatenate([image.scores[~image.defects.any(axis=0)] for image in images])
    scores = np.unique(np.concatenate([image.scores.ravel() for image in images]))
    defects = [
        (image.scores[defect], s) for image in images for defect, s in zip(image.defects, image.saturation, strict=True)
    ]
    points: list[tuple[float, float]] = []
    for threshold in [*scores[::-1], -np.inf]:
        overlaps = [min(np.count_nonzero(inside > threshold) / s, 1) for inside, s in defects]
        points.append((np.count_nonzero(nominal > threshold) / len(nominal), float(np.mean(overlaps))))
    return points


def area(points: list[tuple[float, float]], limit: float) -> float:
    """Return the area under a curve up to a share of other pixels, as a part of the largest that there can be."""
    total = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x1 > x0 and x0 < limit:
            end = min(x1, limit)
            total += (end - x0) * (y0 + y0 + (y1 - y0) * (end - x0) / (x1 - x0)) / 2
    return total / limit


def fill(metric: SPRO, images: list[Image]) -> SPRO:
    for image in images:
        metric.update(torch.from_numpy(image.scores), torch.from_numpy(image.defects), image.saturation)
    return metric


def test_an_example_by_hand() -> None:
    """A defect of four pixels is saturated by two; there are four nominal pixels, and a small defect is found last."""
    scores = np.array([[9.0, 7, 1, 1], [8, 6, 2, 0]], np.float32)
    large = np.array([[1, 0, 1, 1], [1, 0, 0, 0]], bool)
    one = Image(scores, large[None], [2])
    # Thresholds downwards: 9 and 8 are of the defect, which is then whole; nominal ones come after.
    assert fill(SPRO(), [one]).compute()["spro_100"] == 1.0
    # Unsaturated, the two pixels of score 1 come after three of four nominal ones: 1/2 up to 3/4, then to 1 at 3/4.
    assert fill(SPRO(), [one._replace(saturation=[4])]).compute()["spro_100"] == pytest.approx(0.75 * 0.5 + 0.25)
    last = np.zeros((2, 4), bool)
    last[1, 3] = True  # score 0, the lowest: its overlap is 1 at the end only, and it is no nominal pixel
    both = fill(SPRO(), [Image(scores, np.stack([large, last]), [2, 1])]).compute()
    assert both["spro_100"] == pytest.approx(0.5)
    assert both["spro_05"] == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("decimals", [1, 9])
def test_spro_equals_its_definition_at_every_limit(seed: int, decimals: int) -> None:
    images = random_images(seed, decimals=decimals)
    row = fill(SPRO(), images).compute()
    assert list(row) == [name for key in KEYS for name in (key, f"{key}_error_bound")]
    points = curve(images)
    for key, limit in zip(KEYS, LIMITS, strict=True):
        assert row[key] == pytest.approx(area(points, limit), abs=1e-12)
        assert row[f"{key}_error_bound"] < 1e-9


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.sampled_from([30, 200]))
def test_the_error_of_coarse_cells_is_within_its_bound_in_any_order(seed: int, rows: int) -> None:
    images = random_images(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(state.BUDGET, "pixels", rows)
        patch.setitem(state.BUDGET, "regions", 2 * rows)
        patch.setattr(state, "PENDING", 500)
        row = fill(SPRO(), images).compute()
        assert row == fill(SPRO(), images[::-1]).compute()
        points = curve(images)
        for key, limit in zip(KEYS, LIMITS, strict=True):
            assert abs(row[key] - area(points, limit)) <= row[f"{key}_error_bound"] + 1e-12


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_spro_of_single_regions_without_saturation_is_pro(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores, mask = random.standard_normal((20, 20)).astype(np.float32), np.zeros((2, 20, 20), bool)
    mask[0, 2 : 4 + random.integers(1, 5), 3:8] = True
    mask[1, 12:15, 10 : 12 + random.integers(1, 5)] = True
    whole = AUPRO(0.05)
    whole.update(torch.from_numpy(scores), torch.from_numpy(mask.any(axis=0)))
    row = fill(SPRO(), [Image(scores, mask, mask.sum(axis=(1, 2)).tolist())]).compute()
    assert row["spro_05"] == pytest.approx(float(whole.compute()), abs=1e-12)


def test_rows_equal_the_metric_of_their_groups() -> None:
    images, metric = random_images(5), SPRO()
    for image, group in zip(images, ("a/good", "a/x", "b/x", "a/y"), strict=True):
        metric.update(torch.from_numpy(image.scores), torch.from_numpy(image.defects), image.saturation, group)
    rows = metric.compute_rows({"x": {"a/good", "a/x"}, "none": {"c"}, "good": {"a/good"}})
    assert rows["x"] == fill(SPRO(), images[:2]).compute()
    assert all(math.isnan(value) for row in ("none", "good") for value in rows[row].values())


def test_errors_name_the_image() -> None:
    scores, defects = torch.rand(3, 4), torch.zeros(1, 3, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"^x\.png: a defect of 0 pixels cannot have a saturation area of 1"):
        SPRO().update(scores, defects, [1], name="x.png")
    with pytest.raises(ValueError, match=r"^x\.png: a map \(H, W\), bool defects"):
        SPRO().update(scores, defects, [1, 2], name="x.png")
    with pytest.raises(ValueError, match=r"^x\.png: .* torch.float32 \(1, 3, 4\) and 1$"):
        SPRO().update(scores, defects.float(), [1], name="x.png")
    with pytest.raises(ValueError, match=r"^x\.png: a map \(H, W\), bool defects"):
        SPRO().update(scores, defects[:, :2], [1], name="x.png")
    with pytest.raises(NotFinite, match=r"^x\.png: 12 of 12 scores"):
        SPRO().update(scores * torch.nan, defects[:0], [], name="x.png")
    with pytest.raises(ValueError, match="rates in"):
        SPRO([30])
