"""Bound the false-alarm rate of one detector, with a confidence over the draw of its held-out images. NumPy only.

If k of n held-out scores lie above a threshold, its rate is distributed as Beta(k + 1, n - k), whatever the
distribution of the scores. This holds without ties; with ties the rate is lower (Wilks, 1941,
https://doi.org/10.1214/aoms/1177731788).
"""

import math

import numpy as np


def bound_rate(held_out: int, above: int, confidence: float) -> float:
    """Return the upper bound of the false-alarm rate of one detector: a one-sided tolerance limit.

    Args:
        held_out: How many images were held out.
        above: How many of their scores lie above the threshold.
        confidence: The probability that the bound holds, in (0, 1), such as 0.95.
    """
    low, high = 0.0, 1.0
    for _ in range(60):  # bisection: after 60 halvings, a float cannot tell the two ends apart
        rate = (low + high) / 2
        low, high = (rate, high) if binomial_cdf(above, held_out, rate) > 1 - confidence else (low, rate)
    return high


def count_needed_with_confidence(rate: float, confidence: float) -> int:
    """Return how many held-out images are needed, at least, to promise a false-alarm rate of at most `rate` with this
    confidence. The threshold is then the highest of their scores."""
    return math.ceil(math.log1p(-confidence) / math.log1p(-rate))


def count_allowed_above_with_confidence(held_out: int, rate: float, confidence: float) -> int:
    """Return how many held-out scores may lie above a threshold that still promises a false-alarm rate of at most
    `rate` with this confidence.

    0 can also mean that not even the highest score, as the threshold, promises this rate.
    """
    count = 0
    while count + 1 < held_out and binomial_cdf(count + 1, held_out, rate) <= 1 - confidence:
        count += 1
    return count


def binomial_cdf(count: int, trials: int, rate: float) -> float:
    """Return the probability that a Binomial(trials, rate) variable is `count` or less; rate in (0, 1)."""
    successes = np.arange(1, count + 1)
    # Compute log P(j) from log P(j - 1), because factorials of a large n exceed a float.
    steps = np.log((trials - successes + 1) / successes * rate / (1 - rate))
    logs = trials * np.log1p(-rate) + np.concatenate([[0.0], np.cumsum(steps)])
    return float(np.exp(logs).sum())
