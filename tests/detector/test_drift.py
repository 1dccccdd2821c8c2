"""Tests for drift keep their false-alarm rate, find changes and their beginning, and continue from a saved state."""

import json
import math
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from lit_ad.detector.decision import Decision
from lit_ad.detector.drift import ODDS, POWERS, SPENT_HALF, Capital, DriftTest, ShareTest
from lit_ad.errors import NotFiniteError, UserError


def drift_test(random: np.random.Generator, held_out: int = 100, rate: float = 0.05) -> DriftTest:
    return DriftTest.from_decision(Decision({"": random.gamma(2.0, size=held_out)}, false_alarm=rate))


def highest_log_capital(test: DriftTest, scores: NDArray[np.float64]) -> float:
    """Return the highest logarithm of the capital over a stream of scores (n,)."""
    logs = []
    for score in scores.tolist():
        test.update(score)
        logs.append(test.log_martingale)
    return max(logs)


def mixture_by_definition(factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the capital (t,) after each image by its definition: a mean over bets (t, bets) and their first images."""
    images, capital = len(factors), []
    for now in range(1, images + 1):
        total = SPENT_HALF / (SPENT_HALF + now)  # what has not begun
        for begin in range(1, now + 1):
            weight = SPENT_HALF / (SPENT_HALF + begin - 1) - SPENT_HALF / (SPENT_HALF + begin)
            total += weight * np.prod(factors[begin - 1 : now], axis=0).mean()
        capital.append(total)
    return np.array(capital)


def test_the_capital_is_the_mixture_over_bets_and_beginnings() -> None:
    p = np.random.default_rng(0).random(60) ** 1.5
    factors = POWERS * p[:, None] ** (POWERS - 1)
    capital, found = Capital(len(POWERS), 0.01), []
    for number, each in enumerate(np.log(factors).tolist()):
        capital.bet(each, float(number))
        found.append(capital.log)
    assert np.allclose(np.exp(found), mixture_by_definition(factors), rtol=1e-9)


def test_the_change_began_with_the_image_after_the_lowest_capital_of_the_best_bet() -> None:
    """The first bet loses on five images and wins on all others. The second bet wins less, from the first image on."""
    capital = Capital(2, 0.01)
    for number in range(1, 30):
        capital.bet([math.log(0.5 if number <= 5 else 3.0), math.log(1.05)], 100.0 + number)
    alarm = capital.alarm
    assert alarm is not None and (alarm.since_image, alarm.since) == (6, 106.0)
    assert alarm.time == 100 + alarm.image and capital.images == 29 > alarm.image


def test_a_change_may_begin_with_the_first_image() -> None:
    capital = Capital(1, 0.01)
    while capital.alarm is None:
        capital.bet([math.log(1.3)], 100.0 + capital.images)
    assert (capital.alarm.since_image, capital.alarm.since) == (1, 100.0)


def test_the_alarm_is_raised_by_the_first_image_whose_capital_reaches_1_over_delta() -> None:
    for delta in (0.5, 0.01):
        capital = Capital(1, delta)
        while capital.alarm is None:
            before = capital.log
            capital.bet([math.log(1.3)], 0.0)
        assert before < math.log(1 / delta) <= capital.log and capital.alarm.image == capital.images


def test_a_capital_that_no_float_can_hold_keeps_its_logarithm() -> None:
    capital = Capital(2, 0.01)
    for _ in range(2000):
        capital.bet([math.log(3.0), 0.0], 0.0)
    # A half of the first image's share of the capital, 1 / 101, won from then on, and later shares won less.
    assert 0 < capital.log - 2000 * math.log(3) - math.log(1 / 101 / 2) < 1


@pytest.mark.parametrize("members", [10_000, 40])
def test_p_is_uniform_and_independent_of_earlier_ones(members: int) -> None:
    """Of scores with and without ties; also where scores are forgotten. Each stream draws its own held-out scores."""
    for rounded in (False, True):
        first, second = [], []
        for seed in range(800):
            random = np.random.default_rng([seed, members])
            scores = random.gamma(2.0, size=(60,))
            scores = np.round(scores * 2) / 2 if rounded else scores
            held = np.sort(scores[:40])
            test = DriftTest(held, float(held[-2]), members=members, seed=seed)
            ps = [p for score in scores[40:].tolist() if (p := test.update(score)) is not None]
            if len(ps) > 8:
                first.append(ps[7])
                second.append(ps[8])
        sample = np.sort(first)
        distance = np.abs(sample - (np.arange(len(sample)) + 0.5) / len(sample)).max()
        assert distance < 1.63 / math.sqrt(len(sample))  # Kolmogorov and Smirnov, at 1 %
        assert abs(np.corrcoef(first, second)[0, 1]) < 2.6 / math.sqrt(len(first))


def test_p_stays_exact_when_few_scores_are_remembered() -> None:
    """Over a long stream each p is uniform given those before: their sums of neighbours have the variance of
    independent ones."""
    random = np.random.default_rng(5)
    test = DriftTest(random.random(30), 2.0, members=30)
    ps = np.array([test.update(score) for score in random.random(20_000).tolist()], np.float64)
    blocks = ps.reshape(-1, 20).mean(1)
    assert abs(ps.mean() - 0.5) < 2.6 * math.sqrt(1 / 12 / len(ps))
    assert np.var(blocks) * 20 == pytest.approx(1 / 12, rel=0.12)


@pytest.mark.parametrize(("held_out", "defects"), [(20, 0.0), (100, 0.05)])
def test_false_alarms_are_as_rare_as_promised(held_out: int, defects: float) -> None:
    """At most a share delta of 1000 streams without a change raise an alarm. Defects above the threshold raise none."""
    peaks = []
    for seed in range(1000):
        random = np.random.default_rng([seed, held_out])
        test, scores = drift_test(random, held_out), random.gamma(2.0, size=150)
        scores[random.random(150) < defects] += 50
        peaks.append(highest_log_capital(test, scores))
    for delta in (0.05, 0.01):
        assert np.mean(np.array(peaks) >= -math.log(delta)) <= delta


@pytest.mark.slow
@pytest.mark.parametrize("held_out", [20, 100])
def test_false_alarms_of_long_streams(held_out: int) -> None:
    peaks = []
    for seed in range(1000):
        random = np.random.default_rng([seed, held_out, 1])
        peaks.append(highest_log_capital(drift_test(random, held_out), random.gamma(2.0, size=1500)))
    for delta in (0.05, 0.01):
        assert np.mean(np.array(peaks) >= -math.log(delta)) <= delta


@pytest.mark.parametrize(("shift", "share", "most"), [(0.5, 0.85, 600), (1.0, 0.95, 400)])
def test_shifts_are_found(shift: float, share: float, most: int) -> None:
    """Scores shift from image 300 on, by `shift` standard deviations."""
    images = []
    for seed in range(40):
        random = np.random.default_rng([seed, 7])
        test, scores = drift_test(random), random.gamma(2.0, size=1500)
        scores[300:] += shift * math.sqrt(2)
        for number, score in enumerate(scores.tolist()):
            test.update(score, number)
            if test.alarm is not None:
                break
        alarm = test.alarm
        images.append(math.inf if alarm is None else alarm.time)
        assert alarm is None or alarm.since_image <= alarm.image
    found = np.array(images)
    assert np.isfinite(found).mean() >= share and np.median(found) < most


def test_an_alarm_tells_when_the_change_began_and_stays() -> None:
    random = np.random.default_rng(0)
    test, scores = drift_test(random), random.gamma(2.0, size=2000)
    scores[1000:] += 1.0
    for number, score in enumerate(scores.tolist()):
        test.update(score, 1e9 + number)
        if number == 1000:
            assert test.alarm is None
    assert test.alarm is not None
    assert 900 < test.alarm.since - 1e9 < test.alarm.time - 1e9 < 1200
    first = test.alarm
    for score in random.gamma(2.0, size=100).tolist():
        test.update(score, 2e9)
    assert test.alarm == first


def test_lower_scores_are_also_a_drift() -> None:
    random = np.random.default_rng(0)
    test = drift_test(random)
    for score in (random.gamma(2.0, size=300) * 0.5).tolist():
        test.update(score)
    assert test.alarm is not None and test.alarm.since_image < 60


def test_a_late_change_is_found_as_soon_as_an_early_one() -> None:
    """The capital that waits does not depend on earlier losses."""
    random = np.random.default_rng(0)
    test, scores = drift_test(random), random.gamma(2.0, size=10_500)
    scores[10_000:] += 0.5 * math.sqrt(2)
    for number, score in enumerate(scores.tolist()):
        test.update(score, number)
    assert test.alarm is not None and 10_000 < test.alarm.time < 10_400


def test_a_restored_test_continues_exactly() -> None:
    """The test is saved as JSON after every image: also when scores are forgotten, and after an alarm."""
    random = np.random.default_rng(1)
    held, scores = random.gamma(2.0, size=50), random.gamma(2.0, size=300)
    scores[150:] += 1.5
    whole, parts = (DriftTest(held, float(np.sort(held)[-2]), 0.05, members=60) for _ in range(2))
    share, share_parts = ShareTest(0.05), ShareTest(0.05)
    for number, score in enumerate(scores.tolist()):
        p = whole.update(score, number)
        share.update(score > 5, number)
        parts = DriftTest.from_state(json.loads(json.dumps(parts.to_state(), allow_nan=False)))
        share_parts = ShareTest.from_state(json.loads(json.dumps(share_parts.to_state(), allow_nan=False)))
        assert parts.update(score, number) == p
        share_parts.update(score > 5, number)
        assert parts.log_martingale == whole.log_martingale
    assert whole.alarm is not None and parts.to_state() == whole.to_state()
    assert share_parts.to_state() == share.to_state()


def test_the_memory_is_bounded_and_an_image_costs_little() -> None:
    random = np.random.default_rng(0)
    test, scores = drift_test(random), random.gamma(2.0, size=30_000).tolist()
    begin = time.process_time()
    for score in scores:
        test.update(score)
    assert len(test.to_state()["bag"]) == 10_000
    assert (time.process_time() - begin) / len(scores) < 1e-4
    held = np.arange(100.0)
    few = DriftTest(held, 200.0, members=7).to_state()["bag"]
    assert len(few) == 7 and set(few) < set(held) and max(few) > 6  # drawn from all held-out scores


def test_scores_at_the_threshold_or_above_do_not_count() -> None:
    test = DriftTest([1.0, 2.0, 3.0], 3.0)
    assert test.update(3.0) is None and test.update(9.0) is None
    assert len(test.to_state()["bag"]) == 2 and test.capital.images == 0 and test.log_martingale == 0
    assert 0 < (test.update(2.5) or 0) <= 1 / 3
    with pytest.raises(NotFiniteError):
        test.update(math.nan)


def test_categories_have_their_own_scores() -> None:
    decision = Decision({"nut": np.array([1.0, 2.0, 3.0]), "bolt": np.array([7.0, 8.0])}, false_alarm=0.25)
    assert DriftTest.from_decision(decision, "nut").to_state()["bag"] == [1.0, 2.0]
    assert len(DriftTest.from_decision(decision, None).to_state()["bag"]) == 4


def test_scores_of_folds_are_not_compared_with_those_of_this_detector() -> None:
    """Folds come from other trainings. Lower scores from the first image on are no drift; a later drop is one."""
    random = np.random.default_rng(3)
    held = random.gamma(2.0, size=50)
    test = DriftTest.from_decision(Decision({"": held}, false_alarm=0.05, folds={"": [1] * 5}))
    assert test.to_state()["bag"] == [] and test.update(0.1) is not None
    scores = random.gamma(2.0, size=800) * 0.6
    scores[500:] += 1
    for number, score in enumerate(scores.tolist()):
        test.update(score, number)
    assert test.alarm is not None and 500 <= test.alarm.time < 700


@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_a_high_share_of_anomalous_verdicts_is_found(rate: float) -> None:
    """At the stated rate, false alarms are as rare as promised. A share three times as high is found."""
    peaks, found = [], []
    for seed in range(1000):
        random, test = np.random.default_rng(seed), ShareTest(rate, 0.05)
        for anomalous in (random.random(200) < rate).tolist():
            test.update(anomalous)
        peaks.append(test.alarm is not None)
        if seed < 50:
            for anomalous in (random.random(1200) < 3 * rate).tolist():
                test.update(anomalous)
            found.append(test.alarm is not None)
    assert np.mean(peaks) <= 0.05 and np.mean(found) > 0.9


def test_bets_on_verdicts_are_fair_and_positive() -> None:
    for rate in (1e-4, 0.05, 0.9):
        gains = np.exp(ShareTest(rate)._gains)
        assert gains.shape == (2, len(ODDS)) and (gains > 0).all()
        assert np.allclose(rate * gains[1] + (1 - rate) * gains[0], 1)
        assert np.allclose(gains[1] / gains[0], ODDS)  # the odds of the bet's rate, over those of the stated rate


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(UserError, match=r"delta is 0, but it must be above 0 and at most 0\.5"):
        DriftTest([1.0], 2.0, delta=0)
    with pytest.raises(UserError, match=r"delta is 0.51, but it must be above 0 and at most 0\.5"):
        DriftTest([1.0], 2.0, delta=0.51)
    for rate in (0.0, 1.0, 1.5):
        with pytest.raises(UserError, match=rf"rate is {rate:g}, but"):
            ShareTest(rate)
    with pytest.raises(UserError, match="members is 0"):
        DriftTest([1.0], 2.0, members=0)


def test_the_extreme_settings_that_are_possible_are_taken() -> None:
    test = DriftTest([1.0, 2.0], 3.0, delta=0.5, members=1)
    for score in (0.5, 2.5, 1.5):
        test.update(score)
        assert len(test.to_state()["bag"]) == 1
    ShareTest(0.999999).update(True)


def test_an_alarm_is_false_with_a_probability_of_at_most_1_per_cent_by_default() -> None:
    decision = Decision({"": np.arange(9.0)}, false_alarm=0.1)
    for test in (DriftTest([1.0], 2.0), DriftTest.from_decision(decision), ShareTest(0.05)):
        assert test.capital.delta == 0.01
