"""Thresholds, p-values and masks match counts by hand and simulations."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from lit_ad.detector.decision import Decision
from lit_ad.detector.guarantee import list_warnings
from lit_ad.errors import NotFiniteError, UserError

SCORES = st.lists(st.integers(0, 30).map(float), min_size=1, max_size=60)


def make_decision(scores: list[float], rate: float = 0.01, **more: dict[str, list[float]]) -> Decision:
    return Decision({"a": np.array(scores)}, **more, false_alarm=rate)  # type: ignore[arg-type]


@given(SCORES, st.floats(0.001, 0.6), st.integers(-1, 31).map(float))
@settings(deadline=None)
def test_an_image_is_anomalous_if_its_p_value_is_at_most_the_rate(held: list[float], rate: float, score: float) -> None:
    decision = make_decision(held, rate)
    p = (1 + sum(one >= score for one in held)) / (len(held) + 1)
    assert decision.p_value(score) == pytest.approx(p)
    possible = rate >= 1 / (len(held) + 1)
    assert decision.anomalous(score) == (p <= rate if possible else score > max(held))


def test_false_alarms_stay_below_the_rate() -> None:
    """Over many draws of held-out and new nominal images, of a skewed distribution."""
    generator = np.random.default_rng(0)
    for n, rate in ((99, 0.01), (40, 0.05), (150, 0.1), (19, 0.05)):
        draws = generator.lognormal(size=(20_000, n + 1))
        alarms = np.mean([row[n] > make_decision(row[:n].tolist(), rate).threshold() for row in draws[:4000]])
        exact = np.floor(rate * (n + 1)) / (n + 1)  # split conformal's
        assert alarms <= rate + 3 * np.sqrt(rate / 4000)
        assert alarms == pytest.approx(exact, abs=3 * np.sqrt(exact / 4000))


def test_too_few_held_out_images_give_a_warning() -> None:
    decision = make_decision([3.0, 1.0, 2.0], 0.01)
    assert decision.threshold() == 3
    assert decision.smallest_rate() == 0.25
    (said,) = list_warnings(decision)
    assert said.startswith("3 held-out nominal images allow a false-alarm rate of 0.25 and no lower")
    assert "hold out 99 or more, train with decision.folds so that all images decide, or ask for a higher" in said
    assert list_warnings(make_decision(list(range(99)), 0.01)) == []
    assert list_warnings(make_decision(list(range(98)), 0.01)) != []


def test_the_threshold_is_the_exact_conformal_quantile() -> None:
    held = [float(i) for i in range(199)]
    assert make_decision(held, 0.01).threshold() == 197  # one of 200 may lie at or above
    assert make_decision(held, 0.5).threshold() == 99
    assert make_decision(held, 0.01).with_rate(0.5).threshold() == 99


def test_each_category_has_its_own_threshold() -> None:
    decision = Decision({"a": [1.0, 2.0], "b": [10.0, 20.0, 30.0]}, {"a": [3.0, 4.0], "b": [50.0]}, {"a": [1.0]}, 0.01)  # type: ignore[dict-item]
    assert [decision.threshold(c) for c in ("a", "b", None, "c")] == [2, 30, 30, 30]
    assert [decision.pixel_threshold(c) for c in ("a", "b", None)] == [4, 50, 50]
    assert decision.p_value(15.0, "a") == pytest.approx(1 / 3)
    assert decision.p_value(15.0, "b") == pytest.approx(3 / 4)
    assert decision.p_value(15.0) == pytest.approx(3 / 6)
    assert decision.verdict(15.0, "a") == "anomalous"
    assert decision.verdict(15.0, "b") == "nominal"
    assert decision.p_value(np.array([0.0, 99.0]), "a").tolist() == pytest.approx([1, 1 / 3])


def test_pixels_and_colours() -> None:
    decision = make_decision([1.0], maxima={"a": [4.0, 8.0]}, medians={"a": [1.0, 2.0, 9.0]})
    assert decision.pixel_threshold() == 8
    assert decision.colour_range() == (2, 14)
    assert decision.mask(np.array([[8.0, 8.5]], np.float32)).tolist() == [[False, True]]
    image_level = make_decision([1.0])
    assert image_level.pixel_threshold() is None
    assert image_level.colour_range() is None
    with pytest.raises(UserError, match="no pixel threshold"):
        image_level.mask(np.zeros((1, 1), np.float32))


def many() -> Decision:
    """A decision of two categories."""
    scores = {"a": np.arange(19.0), "b": np.arange(100.0, 109.0)}
    maxima = {"a": np.arange(19.0), "b": np.arange(200.0, 209.0)}
    return Decision(scores, maxima, {"a": np.array([1.0]), "b": np.array([150.0])}, 0.05)


def test_a_threshold_set_by_hand_replaces_the_threshold_of_the_rate() -> None:
    before, held = make_decision(list(map(float, range(19))), 0.05, maxima={"a": [3.0, 4.0]}), range(19)
    for category in ("a", None):  # of one category, the name makes no difference
        decision = before.with_threshold(16.5, category)
        for asked in ("a", None, "unknown"):
            assert decision.threshold(asked) == 16.5
            assert decision.verdict(17, asked) == "anomalous" and decision.verdict(16.5, asked) == "nominal"
            point = decision.operating_point(asked)
            assert (point.by_hand, point.above, point.held_out) == (True, 2, 19)
            assert point.rate == pytest.approx(np.mean([score > 16.5 for score in held]))
            # The p-value of whatever lies above the threshold is at most this.
            assert point.p_value == decision.p_value(16.5000001) == pytest.approx(3 / 20)
        assert decision.pixel_threshold() == 4 and not decision.pixel_operating_point().by_hand  # type: ignore[union-attr]
        assert decision.with_rate(0.3).threshold() == 16.5
        assert decision.with_rate(0.3).without_threshold().threshold() == before.with_rate(0.3).threshold()
    assert not before.operating_point().by_hand and before.threshold() == 18
    assert str(decision.operating_point()) == (
        "16.5, set by hand: p-value at most 0.15, 2 of 19 held-out nominal images above it (10.5 %)"
    )
    assert list_warnings(before) == [] and list_warnings(make_decision([1.0], 0.05)) != []
    assert list_warnings(make_decision([1.0], 0.05).with_threshold(3)) == []  # whose rate is not asked for


def test_a_threshold_set_by_hand_is_for_one_category_or_for_all() -> None:
    decision = many().with_threshold(50, "b")
    assert [decision.threshold(category) for category in ("a", "b", None)] == [18, 50, 108]
    decision = many().with_threshold(50)
    assert [decision.threshold(category) for category in ("a", "b", None)] == [50, 50, 50]
    decision = decision.without_threshold("a")
    assert [decision.threshold(category) for category in ("a", "b", None)] == [18, 50, 50]


def test_a_pixel_threshold_set_by_hand() -> None:
    decision = many().with_threshold(202.5, "b", pixels=True)
    assert [decision.pixel_threshold(category) for category in ("a", "b", None)] == [18, 202.5, 208]
    assert decision.mask(np.array([[202.0, 203.0]], np.float32), "b").tolist() == [[False, True]]
    assert decision.colour_range("b") == (150, 255)  # the threshold is their middle
    assert decision.threshold("b") == many().threshold("b")
    assert decision.pixel_operating_point("b").above == 6  # type: ignore[union-attr]
    with pytest.raises(UserError, match="a pixel threshold of 150 is no higher than the median 150 of nominal pixels"):
        many().with_threshold(150, "b", pixels=True)
    with pytest.raises(UserError, match="no pixel threshold to set"):
        make_decision([1.0]).with_threshold(1, pixels=True)


def test_impossible_thresholds_are_refused() -> None:
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(UserError, match="a threshold is a finite number, not"):
            many().with_threshold(wrong)
    for change in (many().without_threshold, lambda name: many().with_threshold(1, name)):
        with pytest.raises(UserError, match="this model has no category c: give one of a, b"):
            change("c")


def test_impossible_decisions_are_refused() -> None:
    with pytest.raises(UserError, match=r"false_alarm is a rate between 0 and 1, not 1"):
        make_decision([1.0], 1.0)
    with pytest.raises(UserError, match="there are none"):
        Decision({})
    with pytest.raises(UserError, match=r"held-out nominal images of a have scores that are NaN"):
        make_decision([1.0, float("nan")])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_scores_and_maps_that_are_not_finite_get_no_verdict(value: float) -> None:
    decision = make_decision([1.0, 2.0], maxima={"a": [4.0, 8.0]})
    for judge in (decision.p_value, decision.anomalous, decision.verdict):
        with pytest.raises(NotFiniteError, match=r"^the image: its score or anomaly map is NaN or infinite"):
            judge(value)
    with pytest.raises(NotFiniteError):
        decision.p_value(np.array([1.0, value]))
    with pytest.raises(NotFiniteError):
        decision.mask(np.array([[9.0, value]], np.float32))
    for name in ("scores", "maxima", "medians"):
        held: dict[str, Any] = {"scores": {"a": np.ones(2)}, name: {"a": np.array([1.0, value])}}
        with pytest.raises(UserError, match=f"held-out nominal images of a have {name} that are NaN or infinite"):
            Decision(**held)


def test_to_json_and_back() -> None:
    decision = Decision({"b": [3.0, 1.0], "a": [2.0]}, {"a": [5.0]}, {"a": [0.1]}, 0.2)  # type: ignore[dict-item]
    again = Decision.from_dict(json.loads(json.dumps(decision.to_dict())))
    assert again.to_dict() == decision.to_dict()
    assert again.threshold("b") == decision.threshold("b") == 3
    decision = Decision(decision.scores, decision.maxima, also_chosen={"a": ["the epoch"]}).with_threshold(7, "b")
    again = Decision.from_dict(json.loads(json.dumps(decision.with_threshold(6, "a", pixels=True).to_dict())))
    assert (again.also_chosen, again.by_hand, again.pixels_by_hand) == ({"a": ["the epoch"]}, {"b": 7}, {"a": 6})


@pytest.mark.parametrize(("correlation", "expected"), [(0.0, 0.126), (0.5, 0.098), (0.9, 0.072)])
def test_the_best_of_many_epochs_on_the_same_images_raises_the_rate(correlation: float, expected: float) -> None:
    """As docs/evaluation.md says: 100 epochs, 19 held-out images, a rate of 5 %; scores are normal, those of an image
    in two epochs are correlated, and the epoch with the lowest mean score is taken."""
    generator, thresholds = np.random.default_rng(0), {1: [], 100: []}  # type: ignore[var-annotated]
    for _ in range(1500):
        own = generator.normal(size=19)
        scores = correlation**0.5 * own + (1 - correlation) ** 0.5 * generator.normal(size=(100, 19))
        for epochs, found in thresholds.items():
            best = scores[scores[:epochs].mean(axis=1).argmin()]
            found.append(make_decision(best.tolist(), 0.05).threshold())
    one, best_of_100 = (norm.sf(found).mean() for found in thresholds.values())  # the rate of each detector
    assert one == pytest.approx(0.05, abs=0.004)
    assert best_of_100 == pytest.approx(expected, abs=0.006)


def test_a_scale_set_on_the_same_images_raises_the_rate() -> None:
    """As docs/evaluation.md says of two maps, each by the quantiles 0.9 and 0.995 of the held-out maps: 19 held-out
    images, a rate of 5 %, errors of a chi-squared distribution, times a lognormal factor of each image."""
    generator, rates = np.random.default_rng(0), {"own": [], "other": []}  # type: ignore[var-annotated]

    def draw(count: int) -> list[np.ndarray]:
        return [
            np.exp(0.6 * generator.normal(size=(count, 1))) * generator.chisquare(4, (count, 100)) for _ in range(2)
        ]

    def score(maps: list[np.ndarray], ends: list[np.ndarray]) -> np.ndarray:
        scaled = [(values - low) / (high - low) for values, (low, high) in zip(maps, ends, strict=True)]
        return np.asarray(np.sum(scaled, axis=0).max(axis=1))

    for _ in range(600):
        held, other, new = draw(19), draw(19), draw(100)
        for name, images in (("own", held), ("other", other)):
            ends = [np.quantile(values, (0.9, 0.995)) for values in images]
            rates[name].append((score(new, ends) > make_decision(score(held, ends).tolist(), 0.05).threshold()).mean())
    assert np.mean(rates["other"]) == pytest.approx(0.05, abs=0.006)
    assert np.mean(rates["own"]) == pytest.approx(0.069, abs=0.007)


def test_the_warning_of_too_few_images_ends_when_both_thresholds_are_set_by_hand() -> None:
    """The warning stays while one of the two thresholds follows the rate."""
    few = Decision({"a": np.array([1.0, 2.0])}, {"a": np.array([5.0, 6.0])}, false_alarm=0.1)
    image, pixels = few.with_threshold(3, "a"), few.with_threshold(7, "a", pixels=True)
    assert [len(list_warnings(decision)) for decision in (few, image, pixels)] == [1, 1, 1]
    assert not list_warnings(image.with_threshold(7, "a", pixels=True))
    without_maps = Decision({"a": np.array([1.0, 2.0])}, false_alarm=0.1)
    assert not list_warnings(without_maps.with_threshold(3, "a"))


def test_operating_points_are_those_of_the_decision() -> None:
    """They are computed once, also for all unknown categories together."""
    decision = Decision({"a": np.arange(20.0), "b": np.arange(100.0)}, false_alarm=0.1)
    assert decision.operating_point("nowhere") is decision.operating_point(None) is decision.operating_point("other")
    assert decision.operating_point("a").threshold == 18.0 and decision.operating_point("b").threshold == 90.0
    by_hand = decision.with_threshold(3.0, "a")
    assert (by_hand.operating_point("a").threshold, decision.operating_point("a").threshold) == (3.0, 18.0)
    assert decision.with_rate(0.2).operating_point("b").threshold == 80.0
