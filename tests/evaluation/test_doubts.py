"""A detector whose test shows that it does not work is doubted, with likely causes."""

import numpy as np
import pytest

from lit_ad.evaluation.doubts import describe_doubts
from lit_ad.evaluation.results import ImageResult, Results

GOOD = {"image_auroc": 0.9, "anomalous_images": 4, "misses": 1}
SCORES = {"nut": np.array([0.1, 0.2, 0.3])}


def results(**changed: float) -> Results:
    images = [ImageResult("a.png", "nut", "good", 0, 0.2), ImageResult("b.png", "nut", "dent", 1, 0.6)]
    return Results({"pooled": {**GOOD, **changed}}, images)


def test_a_good_detector_is_not_doubted() -> None:
    assert describe_doubts(results(), SCORES) == describe_doubts(results(), {}) == ""
    assert describe_doubts(results(image_auroc=float("nan"), misses=float("nan")), SCORES) == ""
    assert describe_doubts(results(anomalous_images=0, misses=0), SCORES) == ""


@pytest.mark.parametrize(
    ("changed", "held_out", "reason"),
    [
        ({"image_auroc": 0.55}, SCORES, "the image AUROC is 0.550, where guessing gives 0.5"),
        ({"misses": 4}, SCORES, "all 4 anomalous images were missed"),
        ({}, {"nut": np.array([0.1, 0.7, 0.8])}, "the good images held out of training score higher than those of"),
    ],
)
def test_doubts_come_with_likely_causes(
    changed: dict[str, float], held_out: dict[str, np.ndarray], reason: str
) -> None:
    said = describe_doubts(results(**changed), held_out)
    assert said.startswith(f"This detector is of no use as it is: {reason}")
    assert ("a false-alarm rate that is too low" in said) == ("misses" in changed)
    assert "lit-ad data check" in said and "too few training steps" in said and "pretrained weights" in said


def test_with_several_categories_the_mean_counts() -> None:
    several = Results({"pooled": {**GOOD, "image_auroc": 0.5}, "mean": {"image_auroc": 0.9}}, results().images)
    assert describe_doubts(several, {"other": np.array([9.0])}) == ""
