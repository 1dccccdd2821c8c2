"""Each source and category has its own drift tests, and alarms are told in words."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lit_ad.deploy import drift_watch
from lit_ad.deploy.drift_watch import DriftWatch
from lit_ad.deploy.journal_file import JournalFile, Row
from lit_ad.detector.decision import Decision
from lit_ad.errors import UserError

HELD = np.random.default_rng(0).random(200)
DECISION = Decision({"nut": HELD, "bolt": HELD + 5}, false_alarm=0.05)


def row(score: float, source: str = "a", category: str = "nut", verdict: str = "nominal", time: float = 1e9) -> Row:
    return Row(time, source, category, "", score, 0.5, verdict, 0.01, None, False, None)


def test_each_source_and_category_has_its_own_tests() -> None:
    watch, random = DriftWatch(DECISION, 0.01, None), np.random.default_rng(1)
    raised: list[tuple[str, float]] = []
    for number in range(300):
        raised += watch.update(row(random.random() * 0.95, "a", time=1.8e9 + number))
        raised += watch.update(row(random.random() * 0.2 + 0.74, "b", time=1.8e9 + number))
        raised += watch.update(row(random.random() * 0.95 + 5, "a", "bolt", time=1.8e9 + number))
    assert set(watch.tests) == {("a", "nut"), ("b", "nut"), ("a", "bolt")}
    assert len(raised) == 1 and raised[0][0].startswith(
        "the scores of images judged nominal have changed, source b, category nut: since about"
    )
    (alarm,) = watch.alarms()
    assert raised[0][0] in alarm and 1.8e9 <= raised[0][1] < 1.8e9 + 300 and "lit-ad journal DIR --reset" in alarm
    assert "2027-01-15" in alarm
    watch.reset(source="a")
    assert watch.alarms() == [alarm]
    watch.reset(source="b", category="bolt")
    assert watch.alarms() == [alarm]
    watch.reset("b", "nut")
    assert not watch.alarms()


def test_too_many_anomalous_verdicts_raise_an_alarm() -> None:
    watch = DriftWatch(DECISION, 0.01, 0.05)
    raised = [
        words for n in range(100) for words, _ in watch.update(row(2.0, verdict="nominal" if n % 2 else "anomalous"))
    ]
    assert len(raised) == 1 and raised[0].startswith("more images are judged anomalous than the stated 5 %, source a")
    known = watch.description()
    assert {test["test"] for test in known["tests"]} == {"scores", "share"}
    assert {test["test"]: test["alarm"] is not None for test in known["tests"]} == {"scores": False, "share": True}
    assert known["log_alarm"] == pytest.approx(math.log(100))
    assert "against the stated rate of 5 %" in known["promise"] and "at most 1 %" in known["promise"]
    json.dumps(known, allow_nan=False)


def test_nominal_verdicts_are_never_too_many() -> None:
    watch = DriftWatch(DECISION, 0.01, 0.05)
    assert not any(watch.update(row(2.0)) for _ in range(100))


def test_an_unknown_source_or_category_is_not_named() -> None:
    alone = DriftWatch(Decision({"": HELD}, false_alarm=0.05), 0.01, 0.05)
    sourced = DriftWatch(DECISION, 0.01, 0.05)
    for _ in range(50):
        alone.update(row(2.0, "", "", "anomalous"))
        sourced.update(row(2.0, "a", "nut", "anomalous"))
    assert "than the stated 5 %: since about" in alone.alarms()[0]
    assert "than the stated 5 %, source a, category nut: since about" in sourced.alarms()[0]
    for watch, names in ((alone, {(None, None)}), (sourced, {("a", "nut")})):
        assert {(test["source"], test["category"]) for test in watch.description()["tests"]} == names


def test_restarted_tests_are_saved() -> None:
    watch = DriftWatch(DECISION, 0.01, 0.05)
    watch.update(row(0.5))
    watch.states()
    watch.reset()
    (text,) = watch.states().values()
    assert [state["capital"]["images"] for state in json.loads(text).values()] == [0, 0]


def test_the_tests_of_a_new_image_are_saved_and_others_are_not() -> None:
    watch = DriftWatch(DECISION, 0.01, None)
    for source in "ab":
        watch.update(row(0.5, source))
    assert set(watch.states()) == {("a", "nut"), ("b", "nut")}
    watch.update(row(0.5, "a"))
    assert set(watch.states()) == {("a", "nut")}


def test_the_promise_names_its_assumptions() -> None:
    plain = DriftWatch(DECISION, 0.01, None).promise()
    assert "not tested, because no rate was stated" in plain and "approximately" not in plain
    chosen = Decision({"nut": HELD, "bolt": HELD}, also_chosen={"nut": [], "bolt": ["the epoch"]})
    assert (
        "(approximately: the epoch was chosen on the same held-out images)" in DriftWatch(chosen, 0.01, None).promise()
    )
    folds = Decision({"nut": HELD, "bolt": HELD}, folds={"nut": [], "bolt": [1] * 5})
    assert "distributed as earlier images of the same line" in DriftWatch(folds, 0.01, None).promise()
    assert "Nothing is tested" in DriftWatch(None, 0.01, None).promise()
    assert DriftWatch(None, 0.01, None).update(row(0.5)) == []


def test_the_number_of_tested_pairs_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift_watch, "MAX_KEYS", 3)
    watch = DriftWatch(DECISION, 0.01, None)
    for number in range(10):
        watch.update(row(0.5, str(number)))
    assert len(watch.tests) == 3 and watch.description()["untested"] == 7


def test_tests_are_restored_from_a_state_and_the_rows_after_it(tmp_path: Path) -> None:
    """With resets of two sources between the rows and after the last one. The journal saves states, rows and events in
    the same way."""
    resets = {30: "a", 45: "b", 59: "b"}
    file, watch, random = JournalFile(tmp_path, alone=True), DriftWatch(DECISION, 0.01, 0.05), np.random.default_rng(2)
    for number in range(60):
        each = row(random.random(), "abc"[number % 3])
        file.insert([each])
        watch.update(each)
        if number == 20:
            file.save_states(watch.states())
            file.save_fact("image", file.last())
        if number in resets:
            file.add_event("reset", resets[number], None, "")
            watch.reset(resets[number])
    again = DriftWatch(DECISION, 0.01, 0.05)
    again.load(file)
    for key, name, test in watch.list_tests():
        assert again.tests[key][name].to_state() == test.to_state()
    assert len(again.states()) == 3 and not again.states()


def test_without_a_saved_state_all_rows_are_read(tmp_path: Path) -> None:
    file, watch = JournalFile(tmp_path, alone=True), DriftWatch(DECISION, 0.01, 0.05)
    for score in (0.3, 0.6, 0.2):
        file.insert([row(score)])
        watch.update(row(score))
    again = DriftWatch(DECISION, 0.01, 0.05)
    again.load(file)
    assert again.states() == watch.states()


def test_the_fingerprint_changes_with_decision_delta_and_rate() -> None:
    watches = [
        DriftWatch(DECISION, 0.01, None),
        DriftWatch(DECISION, 0.02, None),
        DriftWatch(DECISION, 0.01, 0.1),
        DriftWatch(DECISION.with_rate(0.1), 0.01, None),
        DriftWatch(None, 0.01, None),
    ]
    assert len({watch.fingerprint() for watch in watches}) == 5
    reordered = Decision({"bolt": HELD + 5, "nut": HELD}, false_alarm=0.05)
    named = replace(DECISION, highest={"nut": [(9.0, "good/1.png")]})
    for decision in (DECISION, reordered, named):
        assert DriftWatch(decision, 0.01, None).fingerprint() == watches[0].fingerprint()


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match="delta is 2"):
        DriftWatch(DECISION, 2, None)
    with pytest.raises(UserError, match="rate is 0"):
        DriftWatch(DECISION, 0.01, 0)
