"""Bounds of the rate of one detector match scipy and simulations."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import beta

from lit_ad.detector.decision import Decision
from lit_ad.detector.guarantee import describe_guarantee, describe_rate, list_warnings
from lit_ad.detector.summary import summarize
from lit_ad.detector.tolerance import bound_rate, count_allowed_above_with_confidence, count_needed_with_confidence
from lit_ad.errors import UserError


@pytest.mark.parametrize(("n", "above"), [(4, 0), (12, 1), (99, 0), (299, 2), (5000, 49)])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_the_bound_of_one_detector_is_a_quantile_of_a_beta_variable(n: int, above: int, confidence: float) -> None:
    assert bound_rate(n, above, confidence) == pytest.approx(beta.ppf(confidence, above + 1, n - above), rel=1e-9)


def test_the_bound_holds_in_95_of_100_draws() -> None:
    generator = np.random.default_rng(0)
    bound = bound_rate(30, 1, 0.95)  # uniform scores: a detector's own rate is what lies above its threshold
    own = [1 - np.sort(generator.random(30))[-2] for _ in range(4000)]
    assert np.mean([rate <= bound for rate in own]) == pytest.approx(0.95, abs=0.011)


def test_the_number_of_images_that_a_confidence_needs() -> None:
    assert [count_needed_with_confidence(rate, 0.95) for rate in (0.1, 0.05, 0.01)] == [29, 59, 299]
    for rate in (0.1, 0.05, 0.01):
        needed = count_needed_with_confidence(rate, 0.95)
        assert bound_rate(needed, 0, 0.95) <= rate < bound_rate(needed - 1, 0, 0.95)


@pytest.mark.parametrize("n", [5, 29, 59, 100, 473, 5000])
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_most_scores_that_may_lie_above_a_threshold(n: int, rate: float, confidence: float) -> None:
    count = count_allowed_above_with_confidence(n, rate, confidence)
    assert beta.ppf(confidence, count + 2, n - count - 1) > rate
    assert beta.ppf(confidence, count + 1, n - count) <= rate or (
        count == 0 and n < count_needed_with_confidence(rate, confidence)
    )


def test_a_decision_with_a_confidence_exceeds_the_rate_in_5_of_100_draws() -> None:
    generator, above = np.random.default_rng(0), {None: 0, 0.95: 0}
    for _ in range(2000):
        scores = generator.random(150)  # uniform: a detector's own rate is 1 - threshold
        for confidence in above:
            decision = Decision({"": scores}, false_alarm=0.05, confidence=confidence)
            above[confidence] += 1 - decision.threshold() > 0.05
    assert above[0.95] / 2000 <= 0.05 + 0.015 < 0.3 < above[None] / 2000


def test_sentences_name_the_confidence() -> None:
    decision = Decision({"": np.arange(100.0)}, false_alarm=0.05, confidence=0.95)
    assert count_allowed_above_with_confidence(100, 0.05, 0.95) == 1 and decision.threshold() == 98
    assert replace(decision, confidence=None).threshold() == 95
    assert describe_guarantee(decision) == (
        "With 95 % confidence over the draw of the held-out images, at most 5 % of nominal images like them are called "
        "anomalous by this detector."
    )
    (told,) = json.loads(json.dumps(summarize(decision)))["thresholds"]
    assert told["rate_with_confidence"] == pytest.approx(beta.ppf(0.95, 2, 99)) and told["exact"]
    assert summarize(decision)["confidence_asked"] == 0.95
    few = decision.with_rate(0.01)
    assert few.threshold() == 99 and few.smallest_rate() == pytest.approx(1 - 0.05 ** (1 / 100))
    assert describe_rate(few) == (
        "2.95 %, the lowest that the held-out images allow with 95 % confidence (1 % was asked for)"
    )
    assert describe_rate(decision) == "5 % with 95 % confidence"
    (warning,) = list_warnings(few)
    assert (
        "a false-alarm rate of 0.0295 with 95 % confidence and no lower" in warning
        and "hold out 299 or more" in warning
    )
    assert "at most 2.95 %" in describe_guarantee(few) and "which takes more held-out images" in describe_guarantee(few)
    assert Decision.from_dict(decision.to_dict()).confidence == 0.95


def test_folds_have_no_confidence() -> None:
    for confidence, folds, message in (
        (1.5, {}, "is a probability between 0 and 1"),
        (0.9, {"": [1, 1]}, "leave out one"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            Decision({"": np.arange(2.0)}, folds=folds, confidence=confidence)
