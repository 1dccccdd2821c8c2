"""How often the tests for drift alarm on simulated streams of gamma scores, without a change and after one.

    python benchmarks/drift.py [--streams 1000] [--images 1500] [--change 300]

Each stream has held-out scores of its own. `plain` is the same mixture with all of its capital bet from the first image
on, for comparison.
"""

import argparse
import math
import time

import numpy as np
from numpy.typing import NDArray

from lit_ad.detector.decision import Decision
from lit_ad.detector.drift import LOG_POWERS, POWERS, DriftTest, ShareTest

RATE = 0.05
DELTAS = (0.05, 0.01)


def stream(
    held_out: int, images: int, change: int, shift: float, defects: float, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logarithms of the capital after each image, and of that of the plain mixture: 2 x (images,)."""
    random = np.random.default_rng([seed, held_out, images])
    test = DriftTest.from_decision(Decision({"": random.gamma(2.0, size=held_out)}, false_alarm=RATE))
    scores = random.gamma(2.0, size=images)
    scores[change:] += shift * math.sqrt(2)  # standard deviations
    scores[random.random(images) < defects] += 20
    capital, plain, parts = np.zeros(images), np.zeros(images), np.full(len(POWERS), -math.log(len(POWERS)))
    for number, score in enumerate(scores):
        p = test.update(float(score))
        if p is not None:
            parts += LOG_POWERS + (POWERS - 1) * math.log(p)
        capital[number], plain[number] = test.log_martingale, np.logaddexp.reduce(parts)
    return capital, plain


def shares(rate: float, images: int, change: int, later: float, seed: int) -> NDArray[np.float64]:
    """The same of the share of anomalous verdicts, whose rate is the stated one before the change: (images,)."""
    random, test = np.random.default_rng([seed, images]), ShareTest(rate)
    verdicts = random.random(images) < np.where(np.arange(images) < change, rate, later)
    capital = np.zeros(images)
    for number, anomalous in enumerate(verdicts):
        test.update(bool(anomalous))
        capital[number] = test.capital.log
    return capital


def report(name: str, capitals: NDArray[np.float64], change: int) -> None:
    """Print, for each delta, how many streams (streams, images) alarm before and after the change, and when."""
    for delta in DELTAS:
        above = capitals >= -math.log(delta)
        first = np.where(above.any(1), above.argmax(1) + 1, np.inf)
        late = first[first > change]
        after = f"{np.isfinite(late).mean():.3f}  median image {np.median(late):g}" if len(late) else ""
        if change >= capitals.shape[1]:
            after = ""
        print(f"{name}  delta {delta:g}  before {np.mean(first <= change):.3f}  after {after}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--change", type=int, default=300)
    parser.add_argument("--held_out", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--shifts", type=float, nargs="+", default=[0.0, 0.25, 0.5, 1.0], help="standard deviations")
    given = parser.parse_args()
    begin = time.process_time()
    for held_out in given.held_out:
        for shift, defects in [(shift, 0.0) for shift in given.shifts] + [(0.0, 0.05)]:
            change = given.change if shift else given.images
            found = [stream(held_out, given.images, change, shift, defects, seed) for seed in range(given.streams)]
            name = f"n {held_out}  shift {shift:g}  defects {defects:g}"
            for which, kind in enumerate(("", "  plain")):
                report(name + kind, np.array([each[which] for each in found]), change)
    for rate, later in ((0.05, 0.05), (0.05, 0.1), (0.05, 0.2), (0.01, 0.01), (0.01, 0.03)):
        change = given.change if later > rate else given.images
        capitals = [shares(rate, given.images, change, later, seed) for seed in range(given.streams)]
        report(f"share {rate:g} then {later:g}", np.array(capitals), change)
    print(f"{time.process_time() - begin:.0f} s of one core")


if __name__ == "__main__":
    main()
