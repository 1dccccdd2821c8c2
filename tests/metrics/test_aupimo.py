"""AUPIMO equals the area under its authors' curve, computed one threshold and one image at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import trapezoid

from lit_ad.metrics import AUPIMO, NotFinite, aupimo
from lit_ad.metrics.aupimo import count_represented, select_ranks

Pairs = list[tuple[np.ndarray, np.ndarray]]
BOUNDS = (0.01, 0.1)  # of maps so small that they have no rate of 1e-5


def random_images(
    seed: int, decimals: int = 9, nominal: int = 3, anomalous: int = 3, side: int = 30, lift: float = 3
) -> Pairs:
    """Return images of several sizes, of which the first are nominal."""
    random, pairs = np.random.default_rng(seed), []
    for index in range(nominal + anomalous):
        mask = np.zeros(random.integers(side - 10, side + 10, 2), bool)
        if index >= nominal:
            mask[3 : 3 + random.integers(1, 9), 2 : 2 + random.integers(1, 9)] = True
        scores = random.standard_normal(mask.shape) + random.uniform(0, lift) * mask
        pairs.append((np.round(scores, decimals).astype(np.float32), mask))
    return pairs


def areas_by_definition(pairs: Pairs, bounds: tuple[float, float]) -> list[float]:
    """Return the area of each anomalous image: trapezoids under the curve of all thresholds, over the rates' logs."""
    nominal = [scores for scores, mask in pairs if not mask.any()]
    areas = []
    for scores, mask in pairs:
        if not mask.any():
            continue
        thresholds = np.unique(np.concatenate([scores[mask], *map(np.ravel, nominal)]))[::-1]
        rates = np.array([np.mean([(image >= threshold).mean() for image in nominal]) for threshold in thresholds])
        found = np.array([(scores[mask] >= threshold).mean() for threshold in thresholds])
        axis, overlap = np.log(rates[rates > 0]), found[rates > 0]
        low, high = np.log(bounds)
        ends = [np.interp(low, axis, overlap), np.interp(high, axis, overlap)]
        between = (axis > low) & (axis < high)
        curve = np.concatenate([ends[:1], overlap[between], ends[1:]])
        areas.append(trapezoid(curve, np.concatenate([[low], axis[between], [high]])) / (high - low))
    return areas


def fill(metric: AUPIMO, pairs: Pairs) -> AUPIMO:
    for scores, mask in pairs:
        metric.update(torch.from_numpy(scores), torch.from_numpy(mask))
    return metric


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_curve_is_the_overlap_at_each_rate(seed: int) -> None:
    """By definition, the overlap is that at the lowest threshold whose false positive rate is at most the point's."""
    pairs = random_images(seed, decimals=1)
    rates, overlaps = fill(AUPIMO(exact=True), pairs).curves()["pimo"]
    nominal, bad = ([pair for pair in pairs if pair[1].any() == label] for label in (False, True))
    thresholds = np.unique(np.concatenate([scores.ravel() for scores, _ in pairs] + [[np.float32(99)]]))
    reached = np.array([np.mean([(scores >= limit).mean() for scores, _ in nominal]) for limit in thresholds])
    assert (rates[0], rates[-1], overlaps[-1]) == (1e-6, 1, 1)
    for rate, overlap in zip(rates, overlaps, strict=True):
        if np.abs(reached - rate).min() < 1e-9:  # sums of floats
            continue
        limit = thresholds[reached <= rate][0]
        assert overlap == pytest.approx(np.mean([(scores[mask] >= limit).mean() for scores, mask in bad]))
    kept = fill(AUPIMO(), random_images(seed, side=90)).curves()["pimo"][1]
    assert kept == pytest.approx(fill(AUPIMO(exact=True), random_images(seed, side=90)).curves()["pimo"][1], abs=0.01)


@pytest.mark.parametrize("decimals", [1, 9])
@pytest.mark.parametrize("bounds", [BOUNDS, (0.005, 0.7), (0.05, 1.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_aupimo_equals_its_definition(seed: int, bounds: tuple[float, float], decimals: int) -> None:
    pairs = random_images(seed, decimals)
    metric = fill(AUPIMO(bounds, exact=True), pairs)
    assert float(metric.compute()) == pytest.approx(np.mean(areas_by_definition(pairs, bounds)), abs=1e-9)
    assert metric.certificate() < 1e-9


def test_the_authors_bounds_on_maps_of_their_size() -> None:
    pairs = random_images(0, nominal=2, anomalous=2, side=300, lift=6)
    truth = np.mean(areas_above_by_definition(pairs, 200))
    metric = fill(AUPIMO(), pairs)
    assert float(fill(AUPIMO(exact=True), pairs).compute()) == pytest.approx(truth, abs=1e-9)
    assert 0.01 < truth < 0.99
    assert abs(float(metric.compute()) - truth) <= metric.certificate() < 0.01


def areas_above_by_definition(pairs: Pairs, count: int) -> list[float]:
    """Return `areas_by_definition` in the authors' bounds, with the `count` highest nominal scores as thresholds."""
    lowest = np.sort(np.concatenate([scores.ravel() for scores, mask in pairs if not mask.any()]))[-count]
    return areas_by_definition([(np.maximum(scores, lowest), mask) for scores, mask in pairs], aupimo.BOUNDS)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), resolution=st.sampled_from([4, 16, 64]), decimals=st.sampled_from([1, 9]))
def test_the_error_of_kept_scores_is_within_the_certificate_in_any_order(
    seed: int, resolution: int, decimals: int
) -> None:
    pairs = random_images(seed, decimals)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aupimo, "RESOLUTION", resolution)
        select_ranks.cache_clear()
        a, b = fill(AUPIMO(BOUNDS), pairs), fill(AUPIMO(BOUNDS), pairs[::-1])
        assert a.compute().item() == pytest.approx(b.compute().item(), rel=1e-12)  # sums round by where tensors lie
        assert a.certificate() == b.certificate()
        truth = fill(AUPIMO(BOUNDS, exact=True), pairs).compute()
        assert abs(float(a.compute() - truth)) <= a.certificate()
    select_ranks.cache_clear()


@pytest.mark.parametrize("pixels", [1, 256, 257, 300, 10_000, 1_000_003])
def test_kept_scores_represent_every_pixel(pixels: int) -> None:
    ranks = select_ranks(pixels)
    assert ranks[0] == 0 and ranks[-1] == pixels - 1 and len(ranks) <= 2500
    assert (np.diff(ranks) <= 1 + ranks[:-1] / aupimo.RESOLUTION + 1).all()
    for above in (0.0, 0.5, 1.0):
        assert count_represented(len(ranks), pixels, above).sum() == pixels


def test_rows_and_pixels_outside_a_region_of_interest() -> None:
    pairs, metric, inside = random_images(3), AUPIMO(BOUNDS), AUPIMO(BOUNDS)
    for index, (scores, mask) in enumerate(pairs):
        tensors = torch.from_numpy(scores), torch.from_numpy(mask)
        metric.update(*tensors, "good" if index < 3 else f"hole {index}")
        look = np.zeros(mask.shape, bool)
        look[2:20] = True
        inside.update(*tensors, inside=look)
    rows = {"all": ["good", *(f"hole {index}" for index in (3, 4, 5))], "one": ["good", "hole 4"], "none": ["hole 4"]}
    values, areas = metric.compute_rows(rows), areas_by_definition(pairs, BOUNDS)
    assert values["all"]["aupimo"] == pytest.approx(np.mean(areas), abs=0.01)
    assert values["one"]["aupimo"] == pytest.approx(areas[1], abs=0.01)
    assert np.isnan(values["none"]["aupimo"])
    inside.update(*tensors, inside=np.zeros(mask.shape, bool))  # an image without a pixel that counts
    cut = [(scores[2:20], mask[2:20]) for scores, mask in pairs]
    assert torch.equal(inside.compute(), fill(AUPIMO(BOUNDS), cut).compute())


def test_everything_found_is_one_and_nothing_found_is_zero() -> None:
    """The nominal image is too small for the lowest rate: pixels above all of it count in full."""
    nominal, mask = np.zeros((9, 9), np.float32), np.zeros((9, 9), bool)
    mask[:3] = True
    for value, expected in ((1.0, 1.0), (-1.0, 0.0)):
        pairs = [(nominal, mask & False), (value * mask.astype(np.float32), mask)]
        assert float(fill(AUPIMO(), pairs).compute()) == expected


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_errors_name_the_image_and_missing_kinds_are_nan() -> None:
    metric = AUPIMO()
    assert metric.curves() == {}
    assert torch.isnan(metric.compute()) and np.isnan(metric.compute_rows({"x": {"y"}})["x"]["aupimo"])
    with pytest.raises(NotFinite, match=r"^a\.png: 1 of 9"):
        metric.update(torch.tensor([[torch.nan] + [0] * 8]), torch.zeros(1, 9), name="a.png")
    with pytest.raises(ValueError, match="the lower one first"):
        AUPIMO((1e-4, 1e-5))
