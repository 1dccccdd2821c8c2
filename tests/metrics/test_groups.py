import math

import pytest
import torch

from lit_ad.metrics import (
    AUPRO,
    AUPROBySize,
    ImageAUROC,
    ImageEvaluation,
    PixelAUROC,
    PixelAveragePrecision,
    PixelEvaluation,
    PixelF1Max,
)

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
def test_pixel_rows_are_the_single_metrics_of_their_images(row: str) -> None:
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


def test_a_row_without_what_it_needs_is_nan() -> None:
    evaluation, classified = PixelEvaluation(), ImageEvaluation()
    evaluation.update(torch.rand(9, 9), torch.zeros(9, 9), "b/good")
    classified.update(torch.rand(2), torch.zeros(2), ["b/good"] * 2)
    for metric in (evaluation, classified):
        for row in metric.compute_rows({"good": {"b/good"}, "none": {"x"}, "empty": set()}).values():
            assert all(math.isnan(value) for value in row.values())


def test_image_rows() -> None:
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
    with pytest.raises(ValueError, match="line break"):
        PixelEvaluation().update(torch.rand(3, 3), torch.zeros(3, 3), "a\nb")
