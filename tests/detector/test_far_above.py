"""Held-out images whose scores lie far above all others are found and named."""

from dataclasses import replace

import numpy as np
import pytest

from lit_ad.detector.decision import Decision
from lit_ad.detector.far_above import count_far_above, describe_far_above

GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("draw", "count", "most"), [("normal", 50, 0.002), ("exponential", 50, 0.005), ("exponential", 20, 0.025)]
)
def test_scores_of_one_population_seldom_stand_out(draw: str, count: int, most: float) -> None:
    drawn = getattr(GENERATOR, draw)(size=(2000, count))
    assert np.mean([count_far_above(np.sort(scores)) > 0 for scores in drawn]) <= most


@pytest.mark.parametrize(
    ("added", "found"), [([], 0), ([1.4], 0), ([1.6], 1), ([1.6, 1.7], 2), ([1.6, 1.7, 1.8], 3), ([1.6] * 4, 0)]
)
def test_a_few_scores_behind_a_gap_are_found(added: list[float], found: int) -> None:
    """Of 60 scores, a twentieth may stand out: 3."""
    assert count_far_above(np.array([*np.linspace(0, 0.6, 60 - len(added)), *added])) == found


def test_of_fewer_than_fifteen_scores_none_stands_out() -> None:
    assert count_far_above(np.array([*np.linspace(0, 1, 13), 100])) == 0
    assert count_far_above(np.array([*np.linspace(0, 1, 14), 100])) == 1


def test_a_sentence_names_the_images_of_each_category() -> None:
    low = np.linspace(0.1, 0.2, 39)
    decision = Decision(
        {"bolt": np.array([*low, 0.9, 1.0]), "nut": np.array([*low, 0.9]), "pin": low},
        false_alarm=0.05,
        highest={"bolt": [(1.0, "bolt/7.png"), (0.9, "bolt/3.png"), (0.2, "bolt/1.png")]},
        folds={"nut": [20, 20]},
    )
    bolt, nut = describe_far_above(decision)
    assert bolt == (
        "2 of 41 held-out nominal images of bolt score far above all others: bolt/7.png has 1, bolt/3.png has 0.9, and "
        "the next 0.2. They set the threshold, so that defects may be missed. If they show a defect, move them out of "
        "the good images and train again"
    )
    assert nut.startswith("1 of 40 nominal images of nut scores far above all others: up to 0.9, and the next 0.2. If")
    late = replace(decision, highest={"bolt": [(0.9, "bolt/3.png"), (0.2, "bolt/1.png")]})
    assert ": bolt/3.png has 0.9, and the next 0.2." in describe_far_above(late)[0]
    late = replace(decision, highest={"bolt": [(0.2, "bolt/1.png")]})
    assert ": up to 1, and the next 0.2." in describe_far_above(late)[0]
    assert describe_far_above(decision.with_rate(0.2))[0].count("threshold") == 0
    assert describe_far_above(decision.with_threshold(0.5, "bolt"))[0].count("threshold") == 0
