"""What the thresholds of a test promise is listed by category."""

import numpy as np

from lit_ad.detector.decision import Decision
from lit_ad.detector.summary import summarize
from lit_ad.evaluation.promises import describe_kept_rates, list_guarantees, list_kept_rates
from lit_ad.evaluation.results import Results


def results(decision: Decision) -> Results:
    return Results({"pooled": {}}, [], false_alarm=decision.false_alarm, decision=summarize(decision))


def test_sentences_that_differ_name_their_categories() -> None:
    counts = {"nut": 4, "bolt": 9, "cap": 9}
    told = results(Decision({name: np.arange(float(count)) for name, count in counts.items()}, false_alarm=0.05))
    bolts, nuts, others = list_guarantees(told)
    assert bolts.startswith("bolt, cap: A nominal image") and "at most 10 %" in bolts
    assert nuts.startswith("nut: A nominal image") and "at most 20 %" in nuts
    assert others.startswith("images of another category, or of none: A nominal image")
    assert list_kept_rates(told) == [0.1, 0.1, 0.2]
    assert describe_kept_rates(told) == (
        "10 to 20 % false alarms (the lowest that the nominal images allow; 5 % was asked for)"
    )


def test_one_threshold_has_no_name() -> None:
    told = results(Decision({"nut": np.arange(9.0)}, maxima={"nut": np.arange(9.0)}, false_alarm=0.05))
    assert [sentence[:15] for sentence in list_guarantees(told)] == ["A nominal image"] * 2
    assert list_kept_rates(told) == [0.1]


def test_a_threshold_set_by_hand_keeps_no_rate() -> None:
    several = Decision({"nut": np.arange(9.0), "bolt": np.arange(99.0)}).with_threshold(3.0, "nut")
    assert list_kept_rates(results(several)) == [0.01]
    nothing = Results({"pooled": {}}, [])
    assert not list_kept_rates(nothing) and not list_guarantees(nothing)
