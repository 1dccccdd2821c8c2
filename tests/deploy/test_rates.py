"""Recall and false alarms are counted by labels and p-values, with Wilson's intervals."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lit_ad.deploy.journal_file import JournalFile, Row
from lit_ad.deploy.labels import Labels
from lit_ad.deploy.pictures import Pictures
from lit_ad.deploy.rates import RATES, measure_rates
from tests.deploy.test_journal import DECISION

IMAGES = [  # p-value, label, whether sampled, version
    *((0.01, "defect", False, 2), (0.02, "defect", True, 2), (0.3, "defect", True, 2), (0.01, "defect", True, 1)),
    *((0.03, "good", True, 2), (0.5, "good", True, 2), (0.04, "good", False, 2), (0.01, "unsure", True, 2)),
    *((0.9, "good", True, 2), (0.01, "good", True, 1)),
]


@pytest.fixture
def file(tmp_path: Path) -> JournalFile:
    file = JournalFile(tmp_path, alone=True)
    pictures = Pictures(file, 10**6)
    for p, _, sampled, version in IMAGES:
        verdict = "anomalous" if p <= 0.05 else "nominal"
        (number,) = file.insert([Row(0.0, "", "", "", 1.0, p, verdict, 0.1, "sample", sampled, None, None, version)])
        pictures.save(number, b"x", ".png")
        pictures.flush()
    labels = Labels(tmp_path, 0.05)
    for number, (_, label, *_) in enumerate(IMAGES, 1):
        labels.add(number, label)
    return file


def test_counts_at_each_threshold(file: JournalFile) -> None:
    shipped, *others = measure_rates(file, 2, DECISION)
    assert shipped["rate"] is None and shipped["kept_rate"] == 0.05
    names = ("recall", "sampled_recall", "false_alarms")
    assert [(shipped[name]["count"], shipped[name]["images"]) for name in names] == [(2, 3), (1, 2), (1, 3)]
    assert [row["rate"] for row in others] == [rate for rate in RATES if rate >= 0.01]  # of 99 held-out images
    by_rate = {row["rate"]: [row[name]["count"] for name in names] for row in others}
    assert by_rate[0.01] == [1, 0, 0] and by_rate[0.02] == [2, 1, 0] and by_rate[0.5] == [3, 2, 2]
    recall = shipped["recall"]
    assert (recall["low"], recall["high"]) == pytest.approx((0.2077, 0.9385), abs=1e-4)  # by Wilson's formula


def test_the_shipped_rate_is_that_of_the_worst_category(file: JournalFile) -> None:
    """9 images of bolts keep 10 % and no less; all 108 images together keep 5 %, but decide about no bolt."""
    several = replace(DECISION, scores={"nut": np.arange(99.0), "bolt": np.arange(9.0)}, false_alarm=0.05)
    assert measure_rates(file, 2, several)[0]["kept_rate"] == 0.1


def test_without_labels_or_thresholds(file: JournalFile) -> None:
    assert measure_rates(file, 2, None) == []
    assert measure_rates(file, 3, DECISION)[0]["recall"] == {"count": 0, "images": 0, "low": None, "high": None}
