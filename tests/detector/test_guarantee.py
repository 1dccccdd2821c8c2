"""What a decision promises, against scipy and simulation."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import beta

from lit_ad.detector.decision import Decision
from lit_ad.detector.guarantee import (
    bound_of_folds,
    by_hand,
    guarantee,
    held_out_needed,
    probability_above,
    rate_bound,
    summary,
)


def decision(count: int = 19, rate: float = 0.05, chosen: tuple[str, ...] = ()) -> Decision:
    held = {"": np.arange(float(count))}
    return Decision(held, held, {"": np.array([-1.0])}, rate, {"": chosen})


@pytest.mark.parametrize(("n", "rate"), [(99, 0.01), (19, 0.05), (199, 0.01), (999, 0.05), (5, 0.01), (200_000, 0.3)])
def test_one_detector_exceeds_the_rate_as_often_as_a_beta_variable_does(n: int, rate: float) -> None:
    above = max(int(np.floor(rate * (n + 1) + 1e-9)) - 1, 0)
    assert probability_above(n, rate) == pytest.approx(beta.sf(rate, above + 1, n - above), rel=1e-6)


def test_99_images_at_1_per_cent_exceed_it_in_37_of_100_draws() -> None:
    assert probability_above(99, 0.01) == pytest.approx(0.37, abs=0.001)
    generator = np.random.default_rng(0)  # uniform scores: a detector's own rate is what lies above its threshold
    own = [1 - Decision({"": generator.random(99)}).threshold() for _ in range(4000)]
    assert np.mean([rate > 0.01 for rate in own]) == pytest.approx(0.37, abs=0.025)
    assert np.mean(own) == pytest.approx(0.01, abs=0.0006)  # which is what is promised


@pytest.mark.parametrize(("n", "above"), [(4, 0), (12, 1), (99, 0), (299, 2), (5000, 49)])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_the_bound_of_one_detector_is_a_quantile_of_a_beta_variable(n: int, above: int, confidence: float) -> None:
    assert rate_bound(n, above, confidence) == pytest.approx(beta.ppf(confidence, above + 1, n - above), rel=1e-9)


def test_the_bound_holds_in_95_of_100_draws() -> None:
    generator = np.random.default_rng(0)
    bound = rate_bound(30, 1, 0.95)  # uniform scores: a detector's own rate is what lies above its threshold
    own = [1 - np.sort(generator.random(30))[-2] for _ in range(4000)]
    assert np.mean([rate <= bound for rate in own]) == pytest.approx(0.95, abs=0.011)


def test_how_many_images_one_detector_takes() -> None:
    assert [held_out_needed(rate, 0.95) for rate in (0.1, 0.05, 0.01)] == [29, 59, 299]
    for rate in (0.1, 0.05, 0.01):
        needed = held_out_needed(rate, 0.95)
        assert rate_bound(needed, 0, 0.95) <= rate < rate_bound(needed - 1, 0, 0.95)
    told = summary(decision(19, 0.05))["thresholds"][0]
    assert (told["held_out_for_the_rate"], told["held_out_for_the_rate_with_confidence"]) == (19, 59)
    assert told["rate_with_confidence"] == pytest.approx(beta.ppf(0.95, 1, 19))
    assert "with 95 % confidence that of this one is at most 14.6 %" in told["guarantee"]
    assert summary(decision(chosen=("the epoch",)))["thresholds"][0]["rate_with_confidence"] is None


def test_a_guarantee_says_when_it_is_exact() -> None:
    exact = summary(decision())["thresholds"][0]
    assert exact["exact"] and "a probability of at most 5 %" in exact["guarantee"]
    assert exact["probability_above_rate"] == pytest.approx(beta.sf(0.05, 1, 19))
    few = guarantee(decision(4, 0.05))
    assert "at most 20 %" in few  # what four held-out images allow
    chosen = summary(decision(chosen=("the epoch", "a scale")))
    assert chosen["also_chosen"] == {"": ["the epoch", "a scale"]}
    assert chosen["thresholds"][0]["guarantee"] == (
        "The false-alarm rate of 5 % is approximate: the epoch and a scale were chosen on the same held-out images."
    )
    assert guarantee(decision(4, 0.05, chosen=("the epoch",))) == (
        "The false-alarm rate of 20 % is approximate: the epoch was chosen on the same held-out images. 5 % was asked "
        "for, which takes more held-out images."
    )
    assert not chosen["thresholds"][0]["exact"] and chosen["thresholds"][0]["probability_above_rate"] is None


def test_a_threshold_set_by_hand_promises_nothing_and_says_what_it_stands_for() -> None:
    moved = decision().with_threshold(15.5).with_threshold(17.5, pixels=True)
    told = json.loads(json.dumps(summary(moved), allow_nan=False))
    (only,) = told["thresholds"]
    assert only["image"] == {
        **{"threshold": 15.5, "by_hand": True, "p_value": 4 / 20, "above": 3, "held_out": 19, "rate": 3 / 19}
    }
    assert (only["pixels"]["threshold"], only["pixels"]["above"]) == (17.5, 1)
    assert "no false-alarm rate is promised" in only["guarantee"] and not only["exact"]
    assert told["by_hand"] == by_hand(moved)
    assert by_hand(moved)[0] == (
        "threshold 15.5, set by hand: p-value at most 0.2, 3 of 19 held-out nominal images above it (15.8 %)"
    )
    assert by_hand(moved)[1].startswith("pixel threshold 17.5, set by hand: ")
    assert by_hand(decision()) == []


def test_of_several_categories_each_has_its_own() -> None:
    held = {"nut": np.arange(19.0), "bolt": np.arange(9.0)}
    both = Decision(held, false_alarm=0.1, also_chosen={"nut": ["the epoch"]})
    told = summary(both.with_threshold(3, "bolt"))["thresholds"]
    assert [one["category"] for one in told] == ["bolt", "nut", None]
    assert [one["exact"] for one in told] == [False, False, False]
    assert [one["image"]["by_hand"] for one in told] == [True, False, False]
    assert [one["exact"] for one in summary(both)["thresholds"]] == [True, False, False]
    assert by_hand(both.with_threshold(3, "bolt"))[0].startswith("threshold of bolt 3, set by hand")
    assert len(by_hand(both.with_threshold(3))) == 1


def test_the_bound_of_folds_is_twice_the_rate_and_what_few_folds_add() -> None:
    """Barber et al. (2021): Theorem 1 of leaving one out, and Theorem 4 of K folds."""
    assert bound_of_folds(20, 20, 0.05) == pytest.approx(0.1)
    assert bound_of_folds(25, 5, 0.1) == pytest.approx(0.2 + min(2 * 0.8 / 6, 0.8 / 6))
    assert bound_of_folds(1000, 2, 0.1) == pytest.approx(0.2 + 1 / 501)
    assert bound_of_folds(4, 2, 0.5) == 1


def test_a_verdict_of_all_folds_keeps_the_bound_and_is_about_the_rate() -> None:
    """Each fold scores by the distance to the mean of the others: the cross-conformal p-value by its formula."""
    generator, below = np.random.default_rng(0), 0
    for _ in range(2000):
        images, new = generator.normal(size=20), generator.normal()
        folds = np.arange(20) % 5
        means = np.array([images[folds != fold].mean() for fold in range(5)])[folds]
        below += (1 + np.count_nonzero(np.abs(images - means) >= np.abs(new - means))) / 21 <= 0.1
    assert 0.07 < below / 2000 < 0.13 < bound_of_folds(20, 5, 0.1)


def test_a_decision_of_folds_says_what_is_seen_and_what_is_proven() -> None:
    of_folds = replace(decision(19, 0.05), folds={"": 5})
    (told,) = summary(of_folds)["thresholds"]
    assert not told["exact"] and told["folds"] == 5 and told["kept_rate"] == 0.05
    assert told["rate_proven_of_folds"] == pytest.approx(bound_of_folds(19, 5, 0.05))
    assert told["rate_with_confidence"] is None and told["probability_above_rate"] is None
    said = guarantee(of_folds)
    assert "each was scored by a training without it (5 folds). About 5 % of nominal images are called" in said
    assert f"a rate of at most {100 * bound_of_folds(19, 5, 0.05):.3g} %" in said
    assert "leaving one out" in guarantee(replace(of_folds, folds={"": 19}))
    assert Decision.from_dict(of_folds.to_dict()).folds == {"": 5}
    by_threshold = summary(of_folds.with_threshold(3))["thresholds"][0]
    assert by_threshold["rate_proven_of_folds"] is None and "set by hand" in by_threshold["guarantee"]
    assert "take 99 or more" in " ".join(of_folds.with_rate(0.01).warnings())
