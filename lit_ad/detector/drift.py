"""Two tests of a stream of images: whether nominal scores have drifted, and whether too many images are anomalous.

NumPy only. Both tests bet against the hypothesis "nothing has changed". A test begins with a capital of 1, multiplies
it by the gain of its bet on each image, and raises an alarm when it reaches 1 / delta. While the hypothesis is true,
the capital is a martingale, so the probability of an alarm, ever, is at most delta (Ville's inequality).

- `DriftTest` bets on the ranks of scores below the threshold: a conformal test martingale (Vovk et al., 2005, 2021,
  https://arxiv.org/abs/2102.10439). Scores at or above the threshold do not count, so that defects raise no alarm.
  Given the threshold, the held-out scores below it and the scores of new nominal images below it are exchangeable,
  whatever their distribution. The test remembers these scores, and computes p of each new score: the share of higher
  scores among the remembered ones and itself. Ties, also the tie with itself, are broken at random. So p is exactly
  uniform, and independent of all earlier p.
- `ShareTest` bets on the verdicts, against a rate that the user states.

`DriftTest` assumes that nominal images come in random order (parts of one supplier after those of another are a drift)
and that few defects score below the threshold. It cannot detect changes that leave the scores as they are.

If all capital were bet from the first image on, a long quiet time would use it up, and a later change would be found
late. So a part of the capital, 100 / (100 + t) after t images, waits for later images. This is a mixture over the bets
and over the images at which they begin, and also a martingale. `benchmarks/drift.py` compares it with the same mixture
that bets all capital from the first image on.
"""

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lit_ad.detector.decision import Decision
from lit_ad.detector.guarantee import count_folds
from lit_ad.detector.thresholds import refuse_not_finite, select_category
from lit_ad.errors import check_number

# A bet of power k multiplies its capital by k p^(k - 1). It gains with k < 1 if scores become higher, and p lower; with
# k > 1 if scores become lower.
POWERS = np.array([*np.linspace(0.05, 0.95, 10), 1.5, 2.0, 3.0])
LOG_POWERS = np.log(POWERS)
_POWER_BETS: list[tuple[float, float]] = list(zip(LOG_POWERS.tolist(), (POWERS - 1).tolist(), strict=True))
ODDS = np.array([1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0])  # multiples of the odds of the stated rate
SPENT_HALF = 100  # the number of images after which half of the capital has been bet
_MEMBERS = 10_000  # the number of scores that a `DriftTest` remembers; they take 0.3 MiB
DELTA = 0.01  # the probability of a false alarm, ever


@dataclass(frozen=True)
class Alarm:
    """The alarm of a test: when it was raised, and when the change began."""

    image: int  # the number of the image that raised it, among the images that the test counts; the first is 1
    time: float  # the time that was given with that image
    # An estimate of the image at which the change began: the first one after the capital of the best bet was lowest.
    # The best bet is the one that has gained most since its own lowest capital.
    since_image: int
    since: float  # the time of that image


class Capital:
    """The capital of a mixture of bets, as logarithms. It raises an alarm when it reaches 1 / delta.

    The numbers are Python's, not arrays: on so few numbers, one function of NumPy takes as long as all of `bet`.

    Args:
        bets: The number of bets in the mixture.
        delta: The probability of a false alarm, ever.

    Raises:
        UserError: delta is not in (0, 0.5].
    """

    def __init__(self, bets: int, delta: float) -> None:
        check_number("delta", delta, least=0, most=0.5, above=True)
        self.delta = delta
        self.images = 0
        self.log = 0.0
        self.alarm: Alarm | None = None
        self._logs = [-math.inf] * bets
        self._gains = [0.0] * bets  # the log gain of each bet since its capital was lowest
        self._since_images, self._since = [0] * bets, [0.0] * bets  # the image at which it was lowest; its time

    def bet(self, log_factors: Sequence[float], time: float) -> None:
        """Multiply each bet's part of the capital by its gain on one image.

        Args:
            log_factors: The logarithms of the gains, one for each bet.
            time: The time of the image, for the alarm.
        """
        before, self.images = SPENT_HALF + self.images, self.images + 1
        fresh = math.log(SPENT_HALF / before / (before + 1) / len(self._logs))
        waiting = math.log(SPENT_HALF / (before + 1))
        logs, exp, log1p = self._logs, math.exp, math.log1p
        for number, factor in enumerate(log_factors):  # adds the fresh capital to the bet's, and multiplies both
            high, low = (logs[number], fresh) if logs[number] > fresh else (fresh, logs[number])
            logs[number] = high + log1p(exp(low - high)) + factor
        highest = max(waiting, *logs)
        self.log = highest + math.log(exp(waiting - highest) + sum(exp(log - highest) for log in logs))
        if self.alarm is not None:
            return
        gains = self._gains
        for number, factor in enumerate(log_factors):
            if gains[number] <= 0:
                gains[number], self._since_images[number], self._since[number] = 0.0, self.images, time
            gains[number] += factor
        if self.log >= -math.log(self.delta):
            best = gains.index(max(gains))
            self.alarm = Alarm(self.images, time, int(self._since_images[best]), self._since[best])

    def to_state(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "delta": self.delta,
            "images": self.images,
            "log": self.log,
            "alarm": None if self.alarm is None else asdict(self.alarm),
            "logs": [None if math.isinf(value) else value for value in self._logs],  # JSON has no infinity
            "gains": list(self._gains),
            "since_images": list(self._since_images),
            "since": list(self._since),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Capital":
        """Return the capital of `to_state`'s values."""
        capital = cls(len(state["logs"]), state["delta"])
        capital.images, capital.log = state["images"], state["log"]
        capital.alarm = None if state["alarm"] is None else Alarm(**state["alarm"])
        capital._logs = [-math.inf if value is None else value for value in state["logs"]]
        capital._gains, capital._since = list(state["gains"]), list(state["since"])
        capital._since_images = list(state["since_images"])
        return capital


class DriftTest:
    """Tests whether scores below the threshold are still distributed as those of the held-out images.

    Memory is bounded: the test remembers `members` scores. When the memory is full, the test adds the new score, and
    then forgets one score at random, perhaps the new one. The others stay exchangeable with the next score, so p stays
    exactly uniform.

    Args:
        held_out: The scores of held-out nominal images (n,), in any order.
        threshold: The image threshold of the decision. Only scores below it count.
        delta: The probability of an alarm, ever, if nothing changes.
        members: How many scores are remembered.
        seed: For the random numbers that break ties and choose which score is forgotten.

    Raises:
        UserError: members is less than 1, or delta is not in (0, 0.5].

    Example:
        test = DriftTest.from_decision(detector.card.decision)
        for found in detector.stream(paths):
            test.update(found.score, time.time())
            if test.alarm is not None:
                print("since image", test.alarm.since_image)
    """

    def __init__(
        self, held_out: ArrayLike, threshold: float, delta: float = DELTA, members: int = _MEMBERS, seed: int = 0
    ) -> None:
        check_number("members", members, least=1)
        self.threshold, self.members = threshold, members
        self.capital = Capital(len(POWERS), delta)
        self._random = np.random.default_rng(seed)
        held = np.asarray(held_out, np.float64)
        held = self._random.permutation(held[held < threshold])[:members]
        self._bag: list[float] = np.sort(held).tolist()

    @classmethod
    def from_decision(cls, decision: Decision, category: str | None = None, delta: float = DELTA) -> "DriftTest":
        """Return the test of a category; for None, or a category that is not known, the test of all together.

        If the decision has folds, its scores come from other trainings, and this detector's scores may be lower without
        any drift. Images are then compared only with earlier images of the stream, which is as exact.
        """
        held_out = select_category(decision.scores, category)
        comparable = held_out[:0] if count_folds(decision, category) else held_out
        return cls(comparable, decision.threshold(category), delta)

    @property
    def alarm(self) -> Alarm | None:
        """The first alarm, or None. It stays when the capital falls again."""
        return self.capital.alarm

    @property
    def log_martingale(self) -> float:
        """The natural logarithm of the capital. The alarm is raised at log(1 / delta)."""
        return self.capital.log

    def update(self, score: float, time: float = 0.0) -> float | None:
        """Bet on the score of an image. `time`: the time of the image, for the alarm.

        Returns:
            p of the score, in (0, 1] (the module's docstring defines p). None: the score is not below the threshold,
            so it does not count.

        Raises:
            NotFiniteError: The score is NaN or infinite.
        """
        refuse_not_finite("the image", score)
        if score >= self.threshold:
            return None
        bag = self._bag
        low, high = bisect_left(bag, score), bisect_right(bag, score)
        p = (len(bag) - high + (1 - self._random.random()) * (high - low + 1)) / (len(bag) + 1)
        insort(bag, score)
        if len(bag) > self.members:
            del bag[int(self._random.random() * len(bag))]  # `integers` takes three times as long
        log_p = math.log(p)
        self.capital.bet([log_power + exponent * log_p for log_power, exponent in _POWER_BETS], time)
        return p

    def to_state(self) -> dict[str, Any]:
        """Return plain values, for JSON, from which `from_state` makes a test that continues this one."""
        return {
            "threshold": self.threshold,
            "members": self.members,
            "capital": self.capital.to_state(),
            "random": self._random.bit_generator.state,
            "bag": list(self._bag),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "DriftTest":
        """Return the test of `to_state`'s values."""
        test = cls(state["bag"], state["threshold"], members=state["members"])
        test.capital = Capital.from_state(state["capital"])
        test._random.bit_generator.state = state["random"]
        return test


class ShareTest:
    """Tests whether the share of anomalous verdicts lies above a rate that the user states.

    Each bet is the likelihood ratio between a higher rate and the stated one. The odds of the higher rate are a
    multiple of the stated rate's odds. So a bet multiplies the capital by 1 + lambda (x - rate), where x is 1 for an
    anomalous verdict and 0 for a nominal one, and lambda is in (0, 1 / rate).

    Args:
        rate: The share of images that may be called anomalous, defects and false alarms together.
        delta: The probability of an alarm, ever, if no image is called anomalous with a probability above `rate`.

    Raises:
        UserError: rate is not in (0, 1), or delta is not in (0, 0.5].
    """

    def __init__(self, rate: float, delta: float = DELTA) -> None:
        check_number("rate", rate, least=0, most=1 - 1e-6, above=True)
        self.rate = rate
        self.capital = Capital(len(ODDS), delta)
        rates = ODDS * rate / (1 - rate + ODDS * rate)
        self._gains: list[list[float]] = np.log([(1 - rates) / (1 - rate), rates / rate]).tolist()

    @property
    def alarm(self) -> Alarm | None:
        """The first alarm, or None. It stays when the capital falls again."""
        return self.capital.alarm

    def update(self, anomalous: bool, time: float = 0.0) -> None:
        """Bet on the verdict of an image. `time`: the time of the image, for the alarm."""
        self.capital.bet(self._gains[int(anomalous)], time)

    def to_state(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {"rate": self.rate, "capital": self.capital.to_state()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "ShareTest":
        """Return the test of `to_state`'s values."""
        test = cls(state["rate"], state["capital"]["delta"])
        test.capital = Capital.from_state(state["capital"])
        return test
