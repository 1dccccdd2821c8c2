"""Drift tests, one set for each pair of source and category, and their alarms in words. NumPy only."""

import json
import math
from datetime import UTC, datetime
from typing import Any

from lit_ad.deploy.journal_file import Event, JournalFile, Row
from lit_ad.deploy.versions import hash_filled
from lit_ad.detector.decision import Decision
from lit_ad.detector.drift import DriftTest, ShareTest
from lit_ad.detector.guarantee import explain_approximation
from lit_ad.names import printable

Key = tuple[str, str]  # source, category; "" stands for an unknown one
_TESTS: dict[str, type[DriftTest] | type[ShareTest]] = {"scores": DriftTest, "share": ShareTest}
MAX_KEYS = 100  # tested pairs of source and category; each takes up to 0.4 MiB
_RESET = 'when the cause is mended, restart the tests: lit-ad journal DIR --reset "what was done"'


class DriftWatch:
    """Tests whether the images of a line are still distributed as they were when the detector was made.

    Each pair of source and category has up to two tests: one of the scores of nominal verdicts, and one of the share
    of anomalous verdicts.

    Args:
        decision: The detector's decision, whose held-out scores the tests compare with. None: nothing is tested.
        delta: The probability that a test ever raises a false alarm.
        anomalous_rate: The share of images that may be judged anomalous. None: the share is not tested.

    Raises:
        UserError: `delta` or `anomalous_rate` is not between 0 and 1.
    """

    def __init__(self, decision: Decision | None, delta: float, anomalous_rate: float | None) -> None:
        self.decision, self.delta, self.anomalous_rate = decision, delta, anomalous_rate
        self.tests: dict[Key, dict[str, DriftTest | ShareTest]] = {}
        self.untested = 0  # images of pairs beyond MAX_KEYS
        self._changed: set[Key] = set()
        DriftTest([], 0.0, delta)  # raises UserError if delta is out of range
        if anomalous_rate is not None:
            ShareTest(anomalous_rate, delta)

    def fingerprint(self) -> str:
        """Return a hash of all that the tests compare with. When it changes, the tests have to restart."""
        decision = None if self.decision is None else self.decision.without_names().to_dict()
        return hash_filled([decision, self.delta, self.anomalous_rate])

    def update(self, row: Row) -> list[tuple[str, float]]:
        """Add a judged image to the tests of its source and category.

        Returns:
            Each alarm that this image raises: the alarm in words, and the time of the change in seconds since 1970.
        """
        key = row.source, row.category
        if self.decision is None or row.verdict is None:
            return []
        if key not in self.tests:
            if len(self.tests) >= MAX_KEYS:
                self.untested += 1
                return []
            self._start_tests(key)
        alarms = []
        for test in self.tests[key].values():
            was_quiet = test.alarm is None
            if isinstance(test, DriftTest):
                test.update(row.score, row.time)
            else:
                test.update(row.verdict == "anomalous", row.time)
            if was_quiet and test.alarm is not None:
                alarms.append((_phrase_alarm(test, key), test.alarm.since))
        self._changed.add(key)
        return alarms

    def reset(self, source: str | None = None, category: str | None = None) -> None:
        """Restart the tests of a source, of a category or of both. None: of every source, or of every category."""
        for key in list(self.tests):
            if source in (None, key[0]) and category in (None, key[1]):
                self._start_tests(key)

    def apply(self, resets: list[Event]) -> None:
        """Restart the tests that the journal's reset events name."""
        for event in resets:
            self.reset(event.source, event.category)

    def load(self, file: JournalFile) -> None:
        """Load the states of the tests that a journal saved, then add the rows and resets that came after them."""
        for key, text in file.states().items():
            self.tests[key] = {name: _TESTS[name].from_state(state) for name, state in json.loads(text).items()}
        resets = file.events(int(file.fact("event") or 0), "reset")
        for number, row in file.rows(int(file.fact("image") or 0)):
            while resets and resets[0].image < number:
                self.apply([resets.pop(0)])
            self.update(row)
        self.apply(resets)

    def states(self) -> dict[Key, str]:
        """Return the states that changed since the last call, each as JSON."""
        changed, self._changed = self._changed, set()
        return {
            key: json.dumps({name: test.to_state() for name, test in self.tests[key].items()}, allow_nan=False)
            for key in changed
        }

    def list_tests(self) -> list[tuple[Key, str, DriftTest | ShareTest]]:
        """List each test with its key and its name ("scores" or "share"). Another thread may call this."""
        return [(key, name, test) for key, tests in list(self.tests.items()) for name, test in tests.items()]

    def alarms(self) -> list[str]:
        """Return the alarms that nobody has reset, in words."""
        return [f"{_phrase_alarm(test, key)}; {_RESET}" for key, _, test in self.list_tests() if test.alarm is not None]

    def description(self) -> dict[str, Any]:
        """Return the alarms in words, their promise, and each test, as plain values for JSON."""
        tests = [
            {
                "source": key[0] or None,
                "category": key[1] or None,
                "test": name,
                "log_martingale": test.capital.log,
                "alarm": None if test.alarm is None else vars(test.alarm),
            }
            for key, name, test in self.list_tests()
        ]
        return {
            "alarms": self.alarms(),
            "promise": self.promise(),
            "log_alarm": -math.log(self.delta),  # a test raises its alarm when its log_martingale reaches this
            "tests": tests,
            "untested": self.untested,
        }

    def promise(self) -> str:
        """Return what an alarm means, and what it assumes, in a few sentences."""
        if self.decision is None:
            return "Nothing is tested for drift: the model has no threshold and no held-out scores."
        why = explain_approximation(self.decision)
        about = f" (approximately: {why})" if why else ""
        reference = "the held-out images"
        if any(self.decision.folds.values()):  # held-out scores of other trainings: see DriftTest.from_decision
            reference = "earlier images of the same line"
        share = "is not tested, because no rate was stated"
        if self.anomalous_rate is not None:
            share = f"is tested against the stated rate of {100 * self.anomalous_rate:g} %"
        return (
            f"A test of a source and category raises a false alarm with a probability of at most "
            f"{100 * self.delta:g} %, however long it runs{about}. This holds if nominal images are distributed as "
            f"{reference}, come in random order, and few defects score below the threshold. Drift that does not "
            f"change the scores is not detected. The share of anomalous verdicts {share}."
        )

    def _start_tests(self, key: Key) -> None:
        """Make new tests for a source and category, in place of any earlier ones."""
        assert self.decision is not None
        self.tests[key] = {"scores": DriftTest.from_decision(self.decision, key[1] or None, self.delta)}
        if self.anomalous_rate is not None:
            self.tests[key]["share"] = ShareTest(self.anomalous_rate, self.delta)
        self._changed.add(key)


def _phrase_alarm(test: DriftTest | ShareTest, key: Key) -> str:
    """Return an alarm as a clause: what changed, where and when."""
    assert test.alarm is not None
    what = "the scores of images judged nominal have changed"
    if isinstance(test, ShareTest):
        what = f"more images are judged anomalous than the stated {100 * test.rate:g} %"
    where = "".join(
        f", {name} {printable(origin)}" for name, origin in zip(("source", "category"), key, strict=True) if origin
    )
    since, raised = (
        datetime.fromtimestamp(time, UTC).isoformat(" ", "seconds") for time in (test.alarm.since, test.alarm.time)
    )
    return f"{what}{where}: since about {since}, alarm at {raised}"
