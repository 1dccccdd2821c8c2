"""Count the alarms of the drift tests on simulated streams of gamma scores, without a change and after one.

    python benchmarks/drift.py [--streams 1000] [--images 1500] [--change 300]

Each stream has its own held-out scores. For comparison, `plain` is the same mixture of bets, but bets its whole capital
from the first image on.
"""

import argparse
import math
import time

import numpy as np
from numpy.typing import NDArray

from lit_ad.detector.decision import Decision
from lit_ad.detector.drift import LOG_POWERS, POWERS, DriftTest, ShareTest

RATE = 0.05  # false alarms of the detector
DELTAS = (0.05, 0.01)  # false alarms of the drift tests


def simulate_scores(
    held_out: int, images: int, change: int, shift: float, defects: float, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Test a stream of scores. Return the logarithm of the capital after each image, of the test and of `plain`.

    Args:
        held_out: The number of held-out scores.
        images: The length of the stream.
        change: The image from which the scores are higher.
        shift: How much higher, in standard deviations.
        defects: The share of defects, whose scores are 20 higher.
        seed: The seed of the stream.

    Returns:
        Two arrays (images,).
    """
    random = np.random.default_rng([seed, held_out, images])
    test = DriftTest.from_decision(Decision({"": random.gamma(2.0, size=held_out)}, false_alarm=RATE))
    scores = random.gamma(2.0, size=images)
    scores[change:] += shift * math.sqrt(2)  # the standard deviation of this gamma distribution
    scores[random.random(images) < defects] += 20
    capital, plain, parts = np.zeros(images), np.zeros(images), np.full(len(POWERS), -math.log(len(POWERS)))
    for number, score in enumerate(scores):
        p = test.update(float(score))
        if p is not None:
            parts += LOG_POWERS + (POWERS - 1) * math.log(p)
        capital[number], plain[number] = test.log_martingale, np.logaddexp.reduce(parts)
    return capital, plain


def simulate_share(rate: float, images: int, change: int, later: float, seed: int) -> NDArray[np.float64]:
    """Test a stream of verdicts, anomalous at `rate` before the change and at `later` after it.

    Return the logarithm of the capital after each image, (images,).
    """
    random, test = np.random.default_rng([seed, images]), ShareTest(rate)
    verdicts = random.random(images) < np.where(np.arange(images) < change, rate, later)
    capital = np.zeros(images)
    for number, anomalous in enumerate(verdicts):
        test.update(bool(anomalous))
        capital[number] = test.capital.log
    return capital


def report(name: str, capitals: NDArray[np.float64], change: int) -> None:
    """Print for each delta the share of streams that alarm before and after the change, and the median image.

    Args:
        name: The name of the streams.
        capitals: Logarithms of the capital, (streams, images).
        change: The image from which the streams are changed.
    """
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
    options = parser.parse_args()
    begin = time.process_time()
    for held_out in options.held_out:
        for shift, defects in [(shift, 0.0) for shift in options.shifts] + [(0.0, 0.05)]:
            change = options.change if shift else options.images
            pairs = [
                simulate_scores(held_out, options.images, change, shift, defects, seed)
                for seed in range(options.streams)
            ]
            name = f"n {held_out}  shift {shift:g}  defects {defects:g}"
            for which, kind in enumerate(("", "  plain")):
                report(name + kind, np.array([pair[which] for pair in pairs]), change)
    for rate, later in ((0.05, 0.05), (0.05, 0.1), (0.05, 0.2), (0.01, 0.01), (0.01, 0.03)):
        change = options.change if later > rate else options.images
        capitals = [simulate_share(rate, options.images, change, later, seed) for seed in range(options.streams)]
        report(f"share {rate:g} then {later:g}", np.array(capitals), change)
    print(f"{time.process_time() - begin:.0f} s of processor time")


if __name__ == "__main__":
    main()
