"""The tests for drift of each source and category, and what they tell in words. NumPy only."""

import hashlib
import json
import math
from datetime import UTC, datetime
from typing import Any

from lit_ad.deploy.journal_file import Event, JournalFile, Row
from lit_ad.detector.decision import Decision
from lit_ad.detector.drift import DriftTest, ShareTest
from lit_ad.names import printable

Key = tuple[str, str]  # source, category; "" is one that is not known
TESTS: dict[str, type[DriftTest] | type[ShareTest]] = {"scores": DriftTest, "share": ShareTest}
MOST = 100  # pairs of a source and a category that are tested, each with at most 0.4 MiB
_RESET = 'when the cause is mended, begin anew: lit-ad journal DIR --reset "what was done"'


class DriftWatch:
    """Tests whether the images of a line still come as they did when the detector was made.

    Args:
        decision: Of the detector. None: there is nothing to compare with, and nothing is tested.
        delta: The probability of a false alarm, ever, of each test.
        anomalous_rate: The share of images that may be called anomalous. None: it is not tested.
    """

    def __init__(self, decision: Decision | None, delta: float, anomalous_rate: float | None) -> None:
        self.decision, self.delta, self.anomalous_rate = decision, delta, anomalous_rate
        self.tests: dict[Key, dict[str, DriftTest | ShareTest]] = {}
        self.untested = 0  # images of further pairs
        self._changed: set[Key] = set()
        DriftTest([], 0.0, delta)  # refuses numbers that make no sense
        if anomalous_rate is not None:
            ShareTest(anomalous_rate, delta)

    def fingerprint(self) -> str:
        """Of all that the tests compare with: where it changes, they begin anew."""
        decision = None if self.decision is None else self.decision.to_dict()
        text = json.dumps([decision, self.delta, self.anomalous_rate], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def update(self, row: Row) -> list[tuple[str, float]]:
        """Take a judged image into account. Return the alarms that it raises, in words, and since when."""
        key = row.source, row.category
        if self.decision is None or row.verdict is None:
            return []
        if key not in self.tests:
            if len(self.tests) >= MOST:
                self.untested += 1
                return []
            self._begin(key)
        raised = []
        for test in self.tests[key].values():
            quiet = test.alarm is None
            if isinstance(test, DriftTest):
                test.update(row.score, row.time)
            else:
                test.update(row.verdict == "anomalous", row.time)
            if quiet and test.alarm is not None:
                raised.append((words(test, key), test.alarm.since))
        self._changed.add(key)
        return raised

    def reset(self, source: str | None = None, category: str | None = None) -> None:
        """Begin anew, of a source or a category or of all."""
        for key in list(self.tests):
            if source in (None, key[0]) and category in (None, key[1]):
                self._begin(key)

    def apply(self, resets: list[Event]) -> None:
        """Begin anew where the journal's events say so."""
        for event in resets:
            self.reset(event.source, event.category)

    def load(self, file: JournalFile) -> None:
        """Take up the states that the journal has, and the rows and resets that came after them."""
        for key, text in file.states().items():
            self.tests[key] = {name: TESTS[name].from_state(state) for name, state in json.loads(text).items()}
        resets = file.events(int(file.fact("event") or 0), "reset")
        for number, row in file.rows(int(file.fact("image") or 0)):
            while resets and resets[0].image < number:
                self.apply([resets.pop(0)])
            self.update(row)
        self.apply(resets)

    def states(self) -> dict[Key, str]:
        """The states that have changed since the last call, as JSON."""
        changed, self._changed = self._changed, set()
        return {
            key: json.dumps({name: test.state() for name, test in self.tests[key].items()}, allow_nan=False)
            for key in changed
        }

    def every(self) -> list[tuple[Key, str, DriftTest | ShareTest]]:
        """Each test with its source, category and name. May be called from another thread."""
        return [(key, name, test) for key, tests in list(self.tests.items()) for name, test in tests.items()]

    def alarms(self) -> list[str]:
        """Those that stand, in words."""
        return [f"{words(test, key)}; {_RESET}" for key, _, test in self.every() if test.alarm is not None]

    def description(self) -> dict[str, Any]:
        """Alarms in words, what they promise and assume, and each test, as plain values for JSON."""
        tests = [
            {
                "source": key[0] or None,
                "category": key[1] or None,
                "test": name,
                "log_martingale": test.capital.log,
                "alarm": None if test.alarm is None else vars(test.alarm),
            }
            for key, name, test in self.every()
        ]
        known = {"alarms": self.alarms(), "promise": self.promise(), "log_alarm": -math.log(self.delta)}
        return {**known, "tests": tests, "untested": self.untested}

    def promise(self) -> str:
        """What an alarm means and what it assumes, in a few sentences."""
        if self.decision is None:
            return "Nothing is tested for drift: the model has no threshold and no held-out scores."
        about = " (about: more was chosen on the held-out images)" if any(self.decision.also_chosen.values()) else ""
        as_what = "the held-out ones"
        if any(self.decision.folds.values()):  # whose scores are of other trainings: see DriftTest.from_decision
            as_what = "earlier ones of the same line"
        share = "is not tested, since no rate was stated"
        if self.anomalous_rate is not None:
            share = f"is tested against the stated rate of {100 * self.anomalous_rate:g} %"
        return (
            f"As long as nominal images come as {as_what} did, in no order, and few defects score below the "
            f"threshold, each test of a source and category ever alarms with a probability of at most "
            f"{100 * self.delta:g} %{about}. Drift that leaves the scores as they are is not seen. The share of "
            f"anomalous verdicts {share}."
        )

    def _begin(self, key: Key) -> None:
        assert self.decision is not None
        self.tests[key] = {"scores": DriftTest.from_decision(self.decision, key[1] or None, self.delta)}
        if self.anomalous_rate is not None:
            self.tests[key]["share"] = ShareTest(self.anomalous_rate, self.delta)
        self._changed.add(key)


def words(test: DriftTest | ShareTest, key: Key) -> str:
    """An alarm in a clause: what has changed, where and since when."""
    assert test.alarm is not None
    what = "the scores of nominal verdicts are no longer as they were"
    if isinstance(test, ShareTest):
        what = f"more images are called anomalous than the stated {100 * test.rate:g} %"
    where = "".join(
        f", {name} {printable(origin)}" for name, origin in zip(("source", "category"), key, strict=True) if origin
    )
    since, raised = (
        datetime.fromtimestamp(time, UTC).isoformat(" ", "seconds") for time in (test.alarm.since, test.alarm.time)
    )
    return f"{what}{where}: since about {since}, alarm at {raised}"
