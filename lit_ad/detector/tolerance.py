"""What the false-alarm rate of one detector does not exceed, with a confidence over the draw of its held-out images.

The rate of a threshold that k of n held-out scores lie above is distributed as Beta(k + 1, n - k), whatever the
distribution of scores without ties; with ties it is lower (Wilks, 1941, https://doi.org/10.1214/aoms/1177731788). NumPy
only.
"""

import math

import numpy as np


def rate_bound(held_out: int, above: int, confidence: float) -> float:
    """Return what the false-alarm rate of one detector does not exceed, with a confidence over the draw of its held-out
    images: a one-sided tolerance limit of the order statistic that is its threshold.

    Args:
        held_out: How many images were held out.
        above: How many of their scores lie above the threshold.
        confidence: In (0, 1), such as 0.95.
    """
    low, high = 0.0, 1.0
    for _ in range(60):  # halves the interval each time: to the last digit of a float
        rate = (low + high) / 2
        low, high = (rate, high) if at_most(above, held_out, rate) > 1 - confidence else (low, rate)
    return high


def held_out_needed(rate: float, confidence: float) -> int:
    """Return how many images must be held out for a rate that one detector keeps with a confidence: the fewest of which
    the highest score is such a threshold."""
    return math.ceil(math.log1p(-confidence) / math.log1p(-rate))


def most_above(held_out: int, rate: float, confidence: float) -> int:
    """Return how many of the held-out scores may lie above a threshold whose rate is at most `rate` with a confidence.

    It is 0 where even the highest score is no such threshold.
    """
    count = 0
    while count + 1 < held_out and at_most(count + 1, held_out, rate) <= 1 - confidence:
        count += 1
    return count


def at_most(count: int, trials: int, rate: float) -> float:
    """Return the probability that a Binomial(trials, rate) variable is `count` or less; rate in (0, 1)."""
    successes = np.arange(1, count + 1)
    # log P(j) from log P(j - 1): factorials of large n have no float.
    steps = np.log((trials - successes + 1) / successes * rate / (1 - rate))
    logs = trials * np.log1p(-rate) + np.concatenate([[0.0], np.cumsum(steps)])
    return float(np.exp(logs).sum())
