"""The names of metrics that a benchmark accepts."""

import pytest

from lit_ad.benchmark.metric_names import check_metrics
from lit_ad.errors import UserError


def test_metrics_of_a_test_are_known() -> None:
    check_metrics(["image_auroc", "pixel_auroc", "aupro_30", "aupimo", "instance_recall", "miss_rate", "sample_auroc"])
    check_metrics(["official_spro_30", "image_auroc_teacher"])  # known after a test alone


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "metrics is empty: give one or more, such as image_auroc"),
        (["image_auroc", "pixel_aurok"], "no metric 'pixel_aurok': did you mean pixel_auroc"),
        (["xyz"], "there is no metric 'xyz': give one of "),
    ],
)
def test_unknown_metrics_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_metrics(names)
