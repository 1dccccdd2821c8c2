"""The guarantees of a decision match scipy and simulations."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import beta

from lit_ad.detector.decision import Decision
from lit_ad.detector.guarantee import (
    bound_rate_of_folds,
    compute_probability_above,
    describe_by_hand,
    describe_guarantee,
    list_warnings,
    prove_rate_of_folds,
)
from lit_ad.detector.summary import summarize


def decision(count: int = 19, rate: float = 0.05, chosen: tuple[str, ...] = ()) -> Decision:
    held = {"": np.arange(float(count))}
    return Decision(held, held, {"": np.array([-1.0])}, rate, {"": chosen})


@pytest.mark.parametrize(("n", "rate"), [(99, 0.01), (19, 0.05), (199, 0.01), (999, 0.05), (5, 0.01), (200_000, 0.3)])
def test_one_detector_exceeds_the_rate_as_often_as_a_beta_variable_does(n: int, rate: float) -> None:
    above = max(int(np.floor(rate * (n + 1) + 1e-9)) - 1, 0)
    assert compute_probability_above(n, rate) == pytest.approx(beta.sf(rate, above + 1, n - above), rel=1e-6)


def test_99_images_at_1_per_cent_exceed_it_in_37_of_100_draws() -> None:
    assert compute_probability_above(99, 0.01) == pytest.approx(0.37, abs=0.001)
    generator = np.random.default_rng(0)  # uniform scores: a detector's own rate is what lies above its threshold
    own = [1 - Decision({"": generator.random(99)}).threshold() for _ in range(4000)]
    assert np.mean([rate > 0.01 for rate in own]) == pytest.approx(0.37, abs=0.025)
    assert np.mean(own) == pytest.approx(0.01, abs=0.0006)  # which is what is promised


def test_the_number_of_images_that_one_detector_needs() -> None:
    told = summarize(decision(19, 0.05))["thresholds"][0]
    assert (told["held_out_for_the_rate"], told["held_out_for_the_rate_with_confidence"]) == (19, 59)
    assert told["rate_with_confidence"] == pytest.approx(beta.ppf(0.95, 1, 19))
    assert "with 95 % confidence that of this one is at most 14.6 %" in told["guarantee"]
    assert summarize(decision(chosen=("the epoch",)))["thresholds"][0]["rate_with_confidence"] is None


def test_a_guarantee_tells_whether_it_is_exact() -> None:
    exact = summarize(decision())["thresholds"][0]
    assert exact["exact"] and "a probability of at most 5 %" in exact["guarantee"]
    assert exact["probability_above_rate"] == pytest.approx(beta.sf(0.05, 1, 19))
    few = describe_guarantee(decision(4, 0.05))
    assert "at most 20 %" in few  # what four held-out images allow
    chosen = summarize(decision(chosen=("the epoch", "a scale")))
    assert chosen["also_chosen"] == {"": ["the epoch", "a scale"]}
    assert chosen["thresholds"][0]["guarantee"] == (
        "The false-alarm rate of 5 % is approximate: the epoch and a scale were chosen on the same held-out images."
    )
    assert describe_guarantee(decision(4, 0.05, chosen=("the epoch",))) == (
        "The false-alarm rate of 20 % is approximate: the epoch was chosen on the same held-out images. 5 % was asked "
        "for, which takes more held-out images."
    )
    assert not chosen["thresholds"][0]["exact"] and chosen["thresholds"][0]["probability_above_rate"] is None


def test_images_of_one_part_make_a_rate_approximate() -> None:
    held = {"nut": np.arange(19.0), "bolt": np.arange(9.0)}
    views = Decision(held, held, false_alarm=0.1, also_chosen={"nut": ["the epoch"]}, repeated=["nut"])
    bolt, nut, every = summarize(Decision.from_dict(json.loads(json.dumps(views.to_dict()))))["thresholds"]
    assert bolt["exact"] and not nut["exact"] and not every["exact"] and nut["rate_with_confidence"] is None
    why = (
        "approximate: the epoch was chosen on the same held-out images, and several of the images that set the "
        "threshold show one part."
    )
    assert nut["guarantee"] == f"The false-alarm rate of 10 % is {why}" and nut["pixels"]["guarantee"].endswith(why)
    folds = summarize(Decision({"": np.arange(9.0)}, folds={"": [3, 3, 3]}, repeated=[""]))["thresholds"][0]
    assert folds["rate_proven_of_folds"] is None and "several of the images that set" in folds["guarantee"]


def test_a_threshold_set_by_hand_promises_nothing_and_shows_its_p_value() -> None:
    moved = decision().with_threshold(15.5).with_threshold(17.5, pixels=True)
    told = json.loads(json.dumps(summarize(moved), allow_nan=False))
    (only,) = told["thresholds"]
    assert only["image"] == {
        **{"threshold": 15.5, "by_hand": True, "p_value": 4 / 20, "above": 3, "held_out": 19, "rate": 3 / 19}
    }
    assert (only["pixels"]["threshold"], only["pixels"]["above"]) == (17.5, 1)
    assert "no false-alarm rate is promised" in only["guarantee"] and not only["exact"]
    assert told["by_hand"] == describe_by_hand(moved)
    assert describe_by_hand(moved)[0] == (
        "threshold 15.5, set by hand: p-value at most 0.2, 3 of 19 held-out nominal images above it (15.8 %)"
    )
    assert describe_by_hand(moved)[1].startswith("pixel threshold 17.5, set by hand: ")
    assert describe_by_hand(decision()) == []


def test_each_of_several_categories_has_its_own_guarantee() -> None:
    held = {"nut": np.arange(19.0), "bolt": np.arange(9.0)}
    both = Decision(held, false_alarm=0.1, also_chosen={"nut": ["the epoch"]})
    told = summarize(both.with_threshold(3, "bolt"))["thresholds"]
    assert [one["category"] for one in told] == ["bolt", "nut", None]
    assert [one["exact"] for one in told] == [False, False, False]
    assert [one["image"]["by_hand"] for one in told] == [True, False, False]
    assert [one["exact"] for one in summarize(both)["thresholds"]] == [True, False, False]
    assert describe_by_hand(both.with_threshold(3, "bolt"))[0].startswith("threshold of bolt 3, set by hand")
    assert len(describe_by_hand(both.with_threshold(3))) == 1


def test_the_bound_of_folds_is_at_most_the_published_bounds() -> None:
    """Barber et al. (2021): Theorem 1 (leave one out) and Theorem 4 (K folds of equal size)."""
    for images, folds, rate in itertools.product((4, 20, 60, 1000), (2, 4), (0.001, 0.05, 0.1, 0.3, 0.5)):
        rate = max(rate, 1 / (images + 1))
        more = min(2 * (1 - 1 / folds) / (images / folds + 1), (1 - folds / images) / (folds + 1))
        assert bound_rate_of_folds([images // folds] * folds, rate) <= 2 * rate + more
        assert bound_rate_of_folds([1] * images, rate) <= 2 * rate


def test_the_bound_of_folds_by_hand() -> None:
    assert bound_rate_of_folds([1] * 20, 0.01) == pytest.approx(1 / 21)  # t = 1
    assert bound_rate_of_folds([1] * 19, 0.05) == pytest.approx(1 / 20)
    assert bound_rate_of_folds([1] * 19, 0.1) == pytest.approx(3 / 20)
    assert bound_rate_of_folds([5] * 5, 0.1) == pytest.approx((2 + 5) / 30)  # t = 2
    assert bound_rate_of_folds([500, 500], 0.1) == pytest.approx(2 * (100 + 1) / 1002)
    assert bound_rate_of_folds([6, 6, 6, 5, 5], 0.01) == pytest.approx(6 / (4 * 6))  # of the three folds of 6
    assert bound_rate_of_folds([2, 2], 0.5) == pytest.approx(4 / 6) and bound_rate_of_folds([3, 3], 0.9) == 1


def test_folds_that_differ_in_another_category_are_not_alike() -> None:
    both = Decision({"bolt": np.arange(4.0), "nut": np.arange(3.0)}, folds={"bolt": [1] * 4, "nut": [1, 1, 1, 0]})
    of_bolt, of_nut, of_all = (prove_rate_of_folds(both, category) for category in ("bolt", "nut", None))
    assert of_bolt == pytest.approx(1 / 4) and of_nut == pytest.approx(1 / 4)  # three folds of one bolt and one nut
    assert of_all == pytest.approx(2 / 8)
    alike = Decision({"bolt": np.arange(4.0), "nut": np.arange(4.0)}, folds={"bolt": [1] * 4, "nut": [1] * 4})
    assert prove_rate_of_folds(alike, "nut") == pytest.approx(1 / 5)
    joined = replace(alike, scores={"bolt": np.arange(9.0), "nut": np.arange(4.0)})  # by lit-ad recalibrate
    assert prove_rate_of_folds(joined, "bolt") is None is prove_rate_of_folds(joined)
    assert "others were held out. Nothing is proven" in describe_guarantee(joined, "bolt")
    assert prove_rate_of_folds(replace(joined, folds={"bolt": [], "nut": [1] * 4}), "nut") == pytest.approx(1 / 5)


def rate_of_folds(sizes: list[int], rate: float, detector: str, draws: int = 4000) -> float:
    """How often a nominal image has a cross-conformal p-value of at most a rate, by its formula.

    Detectors of the training images: "distance" to their mean; and "bits", each image's second number, of which an odd
    count in the training set turns the highest scores over, so that folds disagree about them.
    """
    folds, images = np.repeat(range(len(sizes)), sizes), sum(sizes)
    values, bits = np.random.default_rng(0).random((2, draws, images + 1))
    left_in = np.stack([folds != fold for fold in range(len(sizes))]).astype(float)  # (K, n)
    if detector == "distance":
        means = (values[:, :-1] @ left_in.T / left_in.sum(axis=1))[:, folds]  # of the training without each image
        own, new = np.abs(values[:, :-1] - means), np.abs(values[:, -1:] - means)
    else:
        odd, low = (((bits[:, :-1] > 0.5) @ left_in.T) % 2 == 1)[:, folds], 1 - min(1.5 * rate, 1)
        own, new = (np.where(odd & (x > low), 1 + low - x, x) for x in (values[:, :-1], values[:, -1:]))
    p_values = (1 + np.count_nonzero(own >= new, axis=1)) / (images + 1)
    return float(np.mean(p_values <= rate * (1 + 1e-12)))


@pytest.mark.parametrize("sizes", [[1] * 9, [10, 10], [5, 5, 4], [4] * 5, [6, 6, 6, 5, 5]])
def test_a_cross_conformal_verdict_keeps_the_bound(sizes: list[int]) -> None:
    """Simulations include detectors that disagree as much as possible."""
    for of, detector in itertools.product(range(1, sum(sizes)), ("distance", "bits")):
        rate = of / (sum(sizes) + 1)
        error = 3 * np.sqrt(rate / 4000)
        assert rate_of_folds(sizes, rate, detector) <= bound_rate_of_folds(sizes, rate) + error


def test_a_cross_conformal_verdict_may_exceed_the_rate() -> None:
    """So the rate itself is no bound. A usual detector is near the rate."""
    assert rate_of_folds([10, 10], 10 / 21, "bits") > 0.53
    assert rate_of_folds([1] * 20, 10 / 21, "bits") > 0.58
    assert rate_of_folds([4] * 5, 2 / 21, "distance") == pytest.approx(2 / 21, abs=0.02)
    assert rate_of_folds([1] * 20, 1 / 21, "distance") == pytest.approx(1 / 21, abs=0.01)


def test_a_decision_with_folds_states_the_usual_and_the_proven_rate() -> None:
    sizes = [4, 4, 4, 4, 3]
    of_folds = replace(decision(19, 0.05), folds={"": sizes})
    (told,) = summarize(of_folds)["thresholds"]
    assert not told["exact"] and told["folds"] == 5 and told["kept_rate"] == 0.05
    assert told["rate_proven_of_folds"] == bound_rate_of_folds(sizes, 0.05) == pytest.approx(4 / 20)
    assert told["rate_with_confidence"] is None and told["probability_above_rate"] is None
    said = describe_guarantee(of_folds)
    assert "each was scored by a training without it (5 folds). About 5 % of nominal images are called" in said
    assert "A rate of at most 20 % is proven, not for this detector alone" in said
    assert "About 10 % of nominal images are called" in describe_guarantee(of_folds.with_rate(0.12))  # 2 / 20
    assert "leaving one out" in describe_guarantee(replace(of_folds, folds={"": [1] * 19}))
    assert "Nothing is proven" in describe_guarantee(replace(of_folds.with_rate(0.9), folds={"": [10, 9]}))
    assert Decision.from_dict(of_folds.to_dict()).folds == {"": sizes}
    by_threshold = summarize(of_folds.with_threshold(3))["thresholds"][0]
    assert by_threshold["rate_proven_of_folds"] is None and "set by hand" in by_threshold["guarantee"]
    assert "take 99 or more" in " ".join(list_warnings(of_folds.with_rate(0.01)))
