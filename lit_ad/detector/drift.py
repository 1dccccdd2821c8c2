"""Whether nominal images still come as the held-out ones did, and whether too many are anomalous. NumPy only.

Both tests bet against "nothing has changed". The capital, 1 at the beginning, is a martingale while that is true: it
ever reaches 1 / delta with a probability of at most delta, however long one looks (Ville's inequality).

- `DriftTest` bets on the ranks of the scores of nominal verdicts: a conformal test martingale (Vovk et al., 2005, 2021,
  https://arxiv.org/abs/2102.10439). Scores at or above the threshold do not count, so that defects raise no alarm.
  Given the threshold, the held-out scores below it and those of new nominal images below it are exchangeable, whatever
  their distribution. So the smoothed rank p of each is exactly uniform, and independent of those before it.
- `ShareTest` bets on the verdicts, against a rate that the user states.

What `DriftTest` assumes: nominal images come in no order (a batch of one supplier after another is drift, rightly), and
few defects score below the threshold. What it does not see: changes that leave the scores as they are.

Capital that is bet from the first image on is used up by a long quiet time, so that a late change is found late. So a
part of it waits for later images, 100 / (100 + t) after t of them: a mixture over the bets and over the images that
they begin at, which is a martingale as well. `benchmarks/drift.py` compares the two.
"""

import math
from bisect import bisect_left, bisect_right, insort
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lit_ad.detector.decision import Decision
from lit_ad.detector.guarantee import folds_of
from lit_ad.detector.thresholds import Floats, of_category, refuse_not_finite
from lit_ad.errors import check_number

POWERS = np.array([*np.linspace(0.05, 0.95, 10), 1.5, 2.0, 3.0])  # below 1: higher scores; above: lower ones
LOG_POWERS = np.log(POWERS)
ODDS = np.array([1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0])  # times the stated rate's
SPENT_HALF = 100  # images after which half of the capital has been bet
_MEMBERS = 10_000  # scores that new ones are compared with: 0.3 MiB
DELTA = 0.01


@dataclass(frozen=True)
class Alarm:
    """A change, as a test tells it."""

    image: int  # of those that the test counts, at which the alarm was raised; the first is 1
    time: float  # of that image, as it was given
    since_image: int  # where the change began: since here, a bet has gained more than any other since anywhere
    since: float


class Capital:
    """The capital of a mixture of bets, in logarithms, and the alarm.

    Args:
        bets: How many kinds there are.
        delta: The probability of a false alarm, ever.
    """

    def __init__(self, bets: int, delta: float) -> None:
        check_number("delta", delta, least=0, most=0.5, above=True)
        self.delta = delta
        self.images = 0
        self.log = 0.0
        self.alarm: Alarm | None = None
        self._logs: Floats = np.full(bets, -np.inf)
        self._gains = np.zeros(bets)  # of each bet, since its own capital was lowest: at an image and its time
        self._since_images, self._since = np.zeros(bets), np.zeros(bets)

    def bet(self, log_factors: Floats, time: float) -> None:
        """Multiply each bet's part (bets,) by what it gains on an image."""
        before, self.images = SPENT_HALF + self.images, self.images + 1
        fresh = math.log(SPENT_HALF / before / (before + 1) / len(self._logs))
        self._logs = np.logaddexp(self._logs, fresh) + log_factors
        waiting = math.log(SPENT_HALF / (before + 1))
        highest = max(waiting, float(self._logs.max()))
        self.log = highest + math.log(math.exp(waiting - highest) + float(np.exp(self._logs - highest).sum()))
        if self.alarm is not None:
            return
        low = self._gains <= 0
        self._gains[low], self._since_images[low], self._since[low] = 0, self.images, time
        self._gains += log_factors
        if self.log >= -math.log(self.delta):
            best = int(self._gains.argmax())
            self.alarm = Alarm(self.images, time, int(self._since_images[best]), float(self._since[best]))

    def state(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "delta": self.delta,
            "images": self.images,
            "log": self.log,
            "alarm": None if self.alarm is None else asdict(self.alarm),
            "logs": [None if math.isinf(value) else value for value in self._logs.tolist()],  # JSON has no infinity
            "gains": self._gains.tolist(),
            "since_images": self._since_images.tolist(),
            "since": self._since.tolist(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Capital":
        """The inverse of `state`."""
        capital = cls(len(state["logs"]), state["delta"])
        capital.images, capital.log = state["images"], state["log"]
        capital.alarm = None if state["alarm"] is None else Alarm(**state["alarm"])
        capital._logs = np.array([-np.inf if value is None else value for value in state["logs"]])
        capital._gains, capital._since_images, capital._since = (
            np.array(state[name]) for name in ("gains", "since_images", "since")
        )
        return capital


class DriftTest:
    """Tests whether the scores of images judged nominal are distributed as those of the held-out images.

    Its memory is bounded: of more than `members` scores that count, one drawn at random is forgotten with each new one,
    which may be the new one itself. What is left is exchangeable with the next score, so that p stays exactly uniform.

    Args:
        held_out: Nominal scores (n,), in any order.
        threshold: Of the decision, an order statistic of them or set by hand. Only lower scores count.
        delta: The probability of an alarm, ever, if nothing changes.
        members: How many scores are remembered.
        seed: Of the numbers that break ties and that choose what is forgotten.

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
        """The test of a category; of None, or of an unknown one, all together.

        Scores of folds are those of other trainings, and this detector's may be lower without any change: then images
        are compared with earlier ones of the stream alone, which is as exact.
        """
        held_out = of_category(decision.scores, category)
        comparable = held_out[:0] if folds_of(decision, category) else held_out
        return cls(comparable, decision.threshold(category), delta)

    @property
    def alarm(self) -> Alarm | None:
        """The first alarm; it stays."""
        return self.capital.alarm

    @property
    def log_martingale(self) -> float:
        """The natural logarithm of the capital; log(1 / delta) is the alarm."""
        return self.capital.log

    def update(self, score: float, time: float = 0.0) -> float | None:
        """Bet on an image's score. Return its p, in (0, 1]; None where it does not count. Raises NotFiniteError."""
        refuse_not_finite("the image", score)
        if score >= self.threshold:
            return None
        bag = self._bag
        low, high = bisect_left(bag, score), bisect_right(bag, score)
        p = (len(bag) - high + (1 - self._random.random()) * (high - low + 1)) / (len(bag) + 1)
        insort(bag, score)
        if len(bag) > self.members:
            del bag[int(self._random.integers(len(bag)))]
        self.capital.bet(LOG_POWERS + (POWERS - 1) * math.log(p), time)
        return p

    def state(self) -> dict[str, Any]:
        """As plain values, for JSON: a test that is made from them goes on as this one would."""
        return {
            "threshold": self.threshold,
            "members": self.members,
            "capital": self.capital.state(),
            "random": self._random.bit_generator.state,
            "bag": list(self._bag),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "DriftTest":
        """The inverse of `state`."""
        test = cls(state["bag"], state["threshold"], members=state["members"])
        test.capital = Capital.from_state(state["capital"])
        test._random.bit_generator.state = state["random"]
        return test


class ShareTest:
    """Tests whether a share of anomalous verdicts lies above the rate that a user states.

    Each bet is the likelihood ratio of a rate whose odds are a multiple of the stated one's. So it multiplies the
    capital by 1 + lambda (x - rate), where x is 1 for an anomalous verdict and else 0, and lambda in (0, 1 / rate).

    Args:
        rate: The share of images, defects and false alarms together, that may be called anomalous.
        delta: The probability of an alarm, ever, if no image is anomalous with a higher probability than that.
    """

    def __init__(self, rate: float, delta: float = DELTA) -> None:
        check_number("rate", rate, least=0, most=1 - 1e-6, above=True)
        self.rate = rate
        self.capital = Capital(len(ODDS), delta)
        rates = ODDS * rate / (1 - rate + ODDS * rate)
        self._gains: NDArray[np.float64] = np.log([(1 - rates) / (1 - rate), rates / rate])

    @property
    def alarm(self) -> Alarm | None:
        """The first alarm; it stays."""
        return self.capital.alarm

    def update(self, anomalous: bool, time: float = 0.0) -> None:
        """Bet on a verdict."""
        self.capital.bet(self._gains[int(anomalous)], time)

    def state(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {"rate": self.rate, "capital": self.capital.state()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "ShareTest":
        """The inverse of `state`."""
        test = cls(state["rate"], state["capital"]["delta"])
        test.capital = Capital.from_state(state["capital"])
        return test
