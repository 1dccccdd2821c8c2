"""Metrics by group equal the single metrics of the same images."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_ad.metrics import (
    AUPRO,
    AUPROBySize,
    ImageAUROC,
    ImageEvaluation,
    NotFinite,
    PixelAUROC,
    PixelAveragePrecision,
    PixelEvaluation,
    PixelF1Max,
)
from lit_ad.metrics.groups import format_percent_key

GROUPS = ["b/good", "b/hole", "a/good", "b/crack", "a/good", "b/good", "b/hole"]
ROWS = {"b": {"b/good", "b/hole", "b/crack"}, "b hole": {"b/good", "b/hole"}, "all": set(GROUPS), "none": {"c/good"}}


def images() -> list[tuple[torch.Tensor, torch.Tensor, str]]:
    random, out = torch.Generator().manual_seed(0), []
    for index, group in enumerate(GROUPS):
        mask = torch.zeros(30 + index, 40, dtype=torch.bool)
        if not group.endswith("good"):
            mask[5 : 9 + index, 5:10] = True
            mask[20 : 22 + index, 20 : 20 + index] = True
        out.append((torch.randn(mask.shape, generator=random) + mask, mask, group))
    return out


@pytest.mark.parametrize("row", ["b", "b hole", "all"])
def test_pixel_rows_equal_the_single_metrics_of_their_images(row: str) -> None:
    evaluation = PixelEvaluation()
    singles = {
        "pixel_auroc": PixelAUROC(),
        "pixel_average_precision": PixelAveragePrecision(),
        "pixel_f1_max": PixelF1Max(),
        "aupro_30": AUPRO(0.3),
        "aupro_01": AUPRO(0.01),
    }
    by_size = AUPROBySize(0.05)
    for anomaly_map, mask, group in images():
        evaluation.update(anomaly_map, mask, group, name="some.png")
        if group in ROWS[row]:
            for metric in (*singles.values(), by_size):
                metric.update(anomaly_map, mask)
    values = evaluation.compute_rows(ROWS)[row]
    for name, metric in singles.items():
        assert values[name] == float(metric.compute())
    for name, value in by_size.compute().items():
        assert values["aupro_05" if name == "all" else f"aupro_05_{name}"] == float(value)
    assert values["pixel_auroc_error_bound"] <= 1e-9
    assert evaluation.groups() == sorted(set(GROUPS))
    if row == "all":
        assert evaluation.compute() == values


def test_a_row_without_nominal_or_anomalous_pixels_is_nan() -> None:
    evaluation, classified = PixelEvaluation(), ImageEvaluation()
    evaluation.update(torch.rand(9, 9), torch.zeros(9, 9), "b/good")
    classified.update(torch.rand(2), torch.zeros(2), ["b/good"] * 2)
    for metric in (evaluation, classified):
        for row in metric.compute_rows({"good": {"b/good"}, "none": {"x"}, "empty": set()}).values():
            assert all(math.isnan(value) for value in row.values())


def test_image_rows_equal_the_single_metrics_of_their_images() -> None:
    evaluation, single = ImageEvaluation(), ImageAUROC()
    for index, (anomaly_map, mask, group) in enumerate(images()):
        score, label = anomaly_map.max()[None] - index, mask.any()[None]
        evaluation.update(score, label, [group])
        if group in ROWS["b"]:
            single.update(score, label)
    values = evaluation.compute_rows(ROWS, bootstrap=50)
    assert values["b"]["image_auroc"] == float(single.compute())
    low, high = single.interval(resamples=50)
    assert (values["b"]["image_auroc_low"], values["b"]["image_auroc_high"]) == (low, high)
    assert set(evaluation.compute()) == {"image_auroc", "image_average_precision", "image_f1_max"}


def test_errors_name_the_image() -> None:
    with pytest.raises(ValueError, match=r"screw/000\.png: scores have shape"):
        PixelEvaluation().update(torch.rand(3, 3), torch.zeros(3, 4), name="screw/000.png")
    with pytest.raises(ValueError, match=r"screw/000\.png: an anomaly map of shape"):
        PixelEvaluation().update(torch.rand(1, 3, 3), torch.zeros(1, 3, 3), name="screw/000.png")
    with pytest.raises(ValueError, match="need as many groups"):
        ImageEvaluation().update(torch.rand(2), torch.zeros(2), ["a"])
    with pytest.raises(ValueError, match="zero character"):
        PixelEvaluation().update(torch.rand(3, 3), torch.zeros(3, 3), "a\0b")


def test_a_group_may_have_the_name_of_any_folder() -> None:
    groups = ["a\nb", "\udcfc", "h\u00f6le", "a"]
    images, pixels = ImageEvaluation(), PixelEvaluation()
    images.update(torch.rand(4), torch.tensor([0, 1, 0, 1]), groups)
    for group in groups:
        pixels.update(torch.rand(3, 3), torch.eye(3), group)
    assert set(images.compute_rows({group: [group] for group in groups})) == set(groups)
    assert set(pixels.compute_rows({group: [group] for group in groups})) == set(groups)


def test_scores_that_are_not_finite_are_an_error_that_names_the_image() -> None:
    broken = torch.tensor([0.0, torch.nan])
    with pytest.raises(NotFinite, match=r"^b\.png: 1 of 1 scores are NaN or infinite"):
        ImageEvaluation().update(broken, torch.zeros(2), ["x", "x"], ["a.png", "b.png"])
    with pytest.raises(NotFinite, match=r"^image 1 of the batch: "):
        ImageEvaluation().update(broken, torch.zeros(2))
    with pytest.raises(NotFinite, match=r"^c\.png: 2 of 6 scores"):
        PixelEvaluation().update(
            torch.tensor([[0.0, torch.inf, 0], [0, 0, torch.nan]]), torch.zeros(2, 3), name="c.png"
        )
    with pytest.raises(ValueError, match="target") as error:
        ImageEvaluation().update(torch.zeros(1), torch.full((1,), 2))
    assert not isinstance(error.value, NotFinite)


def test_every_limit_has_its_own_key() -> None:
    limits = (0.3, 0.1, 0.05, 0.054, 0.01, 0.001, 0.0014, 1.0, 0.07, 0.29)
    evaluation = PixelEvaluation(limits)
    for anomaly_map, mask, group in images():
        evaluation.update(anomaly_map, mask, group)
    row = evaluation.compute()
    keys = ("30", "10", "05", "05.4", "01", "00.1", "00.14", "100", "07", "29")
    for limit, name in zip(limits, keys, strict=True):
        single = AUPRO(limit)
        for anomaly_map, mask, _ in images():
            single.update(anomaly_map, mask)
        assert row[f"aupro_{name}"] == float(single.compute())
    assert len([key for key in row if key.startswith("aupro_")]) == 4 * len(limits)


@given(st.lists(st.floats(1e-6, 1), min_size=2, max_size=2, unique=True))
def test_no_two_limits_share_a_key(limits: list[float]) -> None:
    first, second = map(format_percent_key, limits)
    assert first != second
    assert float(first) == pytest.approx(100 * limits[0], rel=1e-12)
