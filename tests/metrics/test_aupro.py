"""AUPRO equals its definition, the area under the curve of every threshold and every region."""

from typing import TypeVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import trapezoid
from scipy.ndimage import label

from lit_ad.metrics import AUPRO, AUPROBySize, state
from lit_ad.metrics.aupro import QUARTERS, RegionMetric, Thresholds

Pairs = list[tuple[np.ndarray, np.ndarray]]
Metric = TypeVar("Metric", bound=RegionMetric)


def random_images(seed: int, number: int = 5, decimals: int = 9) -> Pairs:
    """Return images of several sizes, some of them nominal, with rectangular defects that may touch."""
    random, pairs = np.random.default_rng(seed), []
    for index in range(number):
        height, width = random.integers(20, 40, 2)
        mask = np.zeros((height, width), bool)
        for _ in range(random.integers(1, 5) if index else 0):
            row, column, size = random.integers(0, 20), random.integers(0, 20), random.integers(1, 9)
            mask[row : row + size, column : column + size] = True
        pairs.append((np.round(random.standard_normal(mask.shape) + mask, decimals).astype(np.float32), mask))
    return pairs


def curve(pairs: Pairs, largest: float = np.inf) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Return FPR and PRO at every distinct score by definition, one threshold and one region at a time."""
    nominal = np.concatenate([scores[~mask] for scores, mask in pairs])
    regions = []
    for scores, mask in pairs:
        labels, number = label(mask, np.ones((3, 3)))
        regions += [scores[labels == region] for region in range(1, number + 1)]
    regions = [region for region in regions if len(region) <= largest]
    thresholds = np.unique(np.concatenate([scores.ravel() for scores, _ in pairs]))[::-1]
    fpr = [0.0] + [float((nominal >= threshold).mean()) for threshold in thresholds]
    pro = [0.0] + [float(np.mean([(region >= threshold).mean() for region in regions])) for threshold in thresholds]
    return np.array(fpr), np.array(pro), regions


def area(fpr: np.ndarray, pro: np.ndarray, limit: float) -> float:
    after = np.searchsorted(fpr, limit, side="right")
    if after == len(fpr):
        return float(trapezoid(pro, fpr) / limit)
    step = (limit - fpr[after - 1]) / (fpr[after] - fpr[after - 1])
    at_limit = pro[after - 1] + step * (pro[after] - pro[after - 1])
    return float(trapezoid(np.append(pro[:after], at_limit), np.append(fpr[:after], limit)) / limit)


def fill(metric: Metric, pairs: Pairs) -> Metric:
    for scores, mask in pairs:
        metric.update(torch.from_numpy(scores), torch.from_numpy(mask))
    return metric


@pytest.mark.parametrize("limit", [0.3, 0.1, 0.05, 0.01, 1.0])
@pytest.mark.parametrize("decimals", [1, 9])
def test_aupro_equals_its_definition(limit: float, decimals: int) -> None:
    pairs = random_images(0, decimals=decimals)
    fpr, pro, _ = curve(pairs)
    metric = fill(AUPRO(limit), pairs)
    assert float(metric.compute()) == pytest.approx(area(fpr, pro, limit), abs=1e-12)
    assert metric.certificate() < 1e-9


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.sampled_from([30, 200]), limit=st.sampled_from([0.3, 0.05]))
def test_the_error_of_coarse_cells_is_within_the_certificate_in_any_order(seed: int, rows: int, limit: float) -> None:
    pairs = random_images(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(state.BUDGET, "pixels", rows)
        patch.setitem(state.BUDGET, "regions", 2 * rows)
        patch.setattr(state, "PENDING", 500)
        a, b = fill(AUPRO(limit), pairs), fill(AUPRO(limit), pairs[::-1])
        assert torch.equal(a.compute(), b.compute())
        assert a.certificate() == b.certificate()
        truth = fill(AUPRO(limit, exact=True), pairs).compute()
        assert abs(float(a.compute() - truth)) <= a.certificate()
        assert 0 <= float(a.compute()) <= 1


def test_by_size_includes_regions_up_to_the_quantile_of_sizes() -> None:
    pairs = random_images(1)
    sizes = [len(region) for region in curve(pairs)[2]]
    values = fill(AUPROBySize(0.3), pairs).compute()
    for name, quantile in QUARTERS.items():
        fpr, pro, _ = curve(pairs, np.quantile(sizes, quantile))
        assert float(values[name]) == pytest.approx(area(fpr, pro, 0.3), abs=1e-12)


@pytest.mark.parametrize("limit", [0.3, 0.1, 0.05, 0.01])
@pytest.mark.parametrize("decimals", [1, 9])
def test_the_authors_thresholds_give_the_authors_area(limit: float, decimals: int) -> None:
    """They are 99 nominal scores equidistant in rank. FPR is by rank, the overlap strictly above; (1, 1) is last."""
    pairs = random_images(2, decimals=decimals)
    nominal = np.sort(np.concatenate([scores[~mask] for scores, mask in pairs]))
    regions = curve(pairs)[2]
    fpr, pro = [1.0], [1.0]
    for position in np.linspace(0, len(nominal) - 1, 99, dtype=int):
        fpr.append(1 - (position + 1) / len(nominal))
        pro.append(float(np.mean([(region > nominal[position]).mean() for region in regions])))
    truth = area(np.array(fpr[::-1]), np.array(pro[::-1]), limit)
    assert float(fill(AUPRO(limit, thresholds="authors"), pairs).compute()) == pytest.approx(truth, abs=1e-12)
    assert float(fill(AUPROBySize(limit, "authors"), pairs).compute()["all"]) == pytest.approx(truth, abs=1e-12)


def test_perfect_maps_reach_one_and_no_more() -> None:
    pairs = [(mask + np.float32(0.1) * scores.clip(0, 1), mask) for scores, mask in random_images(3)]
    assert float(fill(AUPRO(0.3), pairs).compute()) == 1.0


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("thresholds", ["exact", "authors"])
def test_no_region_or_no_nominal_pixel_is_nan(thresholds: Thresholds) -> None:
    scores = np.random.default_rng(0).random((8, 8), np.float32)
    for pairs in ([], [(scores, np.zeros((8, 8), bool))], [(scores, np.ones((8, 8), bool))]):
        assert torch.isnan(fill(AUPRO(thresholds=thresholds), pairs).compute())
        assert all(torch.isnan(value) for value in fill(AUPROBySize(thresholds=thresholds), pairs).compute().values())


def test_batches_with_a_channel_and_errors() -> None:
    scores, mask = torch.rand(2, 1, 9, 9), torch.rand(2, 1, 9, 9) < 0.2
    a, b = AUPRO(), AUPRO()
    a.update(scores, mask)
    b.update(scores[:, 0], mask[:, 0])
    assert torch.equal(a.compute(), b.compute())
    with pytest.raises(ValueError, match="image 0: regions need scores of shape"):
        a.update(torch.rand(5), torch.zeros(5))
    with pytest.raises(ValueError, match="false positive rate"):
        AUPRO(30)
    with pytest.raises(ValueError, match='"exact" or "authors"'):
        AUPRO(thresholds="theirs")  # type: ignore[arg-type]
