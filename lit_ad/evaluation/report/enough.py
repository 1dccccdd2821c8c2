"""Describe how many nominal images a run has, how many its false-alarm rate needs, and how certain its recall is."""

import math
from dataclasses import dataclass
from typing import Any

from lit_ad.counts import format_count
from lit_ad.detector.guarantee import CONFIDENCE
from lit_ad.detector.thresholds import find_smallest_rate
from lit_ad.evaluation.promises import list_thresholds
from lit_ad.evaluation.results import POOLED, Results, Row

WIDTH, HEIGHT = 420, 130  # size of the picture's axes in pixels
_MAX_IMAGES = 1000  # number of images at the right end of the picture
_MIN_RATE = 0.001  # rate at the lower end of the picture


@dataclass(frozen=True)
class ThresholdLine:
    """A line of the page about a threshold and the images behind it, in words."""

    name: str  # the category, or "all images"
    deciding: str  # number of nominal images that set the threshold, and how
    lowest: str  # the lowest false-alarm rate that they allow, with the confidence that was asked for
    more: str  # number of further images for the rate that was asked for
    promised: str  # number of further images to promise that rate with confidence
    recall: str  # recall of the tested anomalous images, with its interval


@dataclass(frozen=True)
class Picture:
    """A plot of the lowest rate over the number of images, both logarithmic, in coordinates of an SVG."""

    line: str  # points of the curve of the lowest rate
    asked: float  # height of the rate that was asked for
    have: tuple[tuple[float, float], ...]  # points of this run, one for each threshold
    ticks: tuple[tuple[float, str], ...]  # x and text of the ticks: numbers of images
    rates: tuple[tuple[float, str], ...]  # y and text of the ticks: rates


def list_threshold_lines(results: Results) -> list[ThresholdLine]:
    """Return a line for each threshold that comes from a rate, and none for a threshold set by hand."""
    return [_describe_threshold(each, results) for each in _list_by_rate(results)]


def _list_by_rate(results: Results) -> list[dict[str, Any]]:
    """Return the thresholds that come from a rate, as detector.summary returns them."""
    return [each for each in list_thresholds(results) if "folds" in each and not each["image"]["by_hand"]]


def _get_confidence(results: Results) -> float | None:
    """Return the confidence that the user asked for. None: none, so that the rate holds on average."""
    confidence: float | None = (results.decision or {}).get("confidence_asked")
    return confidence


def _describe_threshold(threshold: dict[str, Any], results: Results) -> ThresholdLine:
    """Return the line of a threshold.

    Args:
        threshold: The threshold, as detector.summary returns it.
        results: The results, for the recall of its category.
    """
    have, category, asked = threshold["image"]["held_out"], threshold["category"], _get_confidence(results)
    average, confident = (
        _describe_more(threshold[f"held_out_for_the_rate{kind}"] - have) for kind in ("", "_with_confidence")
    )
    sure = f"{100 * threshold.get('confidence', CONFIDENCE):g} % confidence"
    how = f"all, by {format_count(threshold['folds'], 'fold')}" if threshold["folds"] else "held out of training"
    row = results.rows[POOLED] if category is None else results.rows.get(f"{category}/", {})
    if threshold["folds"]:
        promised = "not possible with folds"
    elif threshold["exact"]:
        promised = f"{confident} for {sure}"
    else:
        promised = "not possible: the rate is approximate"
    return ThresholdLine(
        "all images" if category is None else category,
        f"{have} ({how})",
        f"{100 * find_smallest_rate(have, asked):.3g} %" + (f" with {sure}" if asked else ""),
        confident if asked else average,
        promised,
        _describe_recall(row),
    )


def _describe_more(missing: int) -> str:
    """Return how many more images are needed."""
    return f"{missing} more" if missing > 0 else "enough"


def _describe_recall(row: Row) -> str:
    """Return the number of anomalous images that were found, with the 95 % interval of their share."""
    anomalous = int(row.get("anomalous_images", 0))
    misses = row.get("misses", math.nan)
    if not anomalous or math.isnan(misses):
        return "no anomalous image was tested"
    low, high = (100 * (1 - row[f"miss_rate_{end}"]) for end in ("high", "low"))
    return f"{anomalous - int(misses)} of {anomalous}: {low:.0f} to {high:.0f} %"


def draw(results: Results) -> Picture | None:
    """Return the picture of all thresholds that come from a rate; None if there is none."""
    thresholds, confidence = _list_by_rate(results), _get_confidence(results)
    if not thresholds or not results.false_alarm:
        return None

    def place(count: int) -> tuple[float, float]:
        return _place_count(count), _place_rate(find_smallest_rate(count, confidence))

    counts = sorted({round(10 ** (step / 20)) for step in range(int(20 * math.log10(_MAX_IMAGES)) + 1)})
    return Picture(
        " ".join("{:.1f},{:.1f}".format(*place(count)) for count in counts),
        _place_rate(results.false_alarm),
        tuple(place(each["image"]["held_out"]) for each in thresholds),
        tuple((_place_count(count), str(count)) for count in (1, 10, 100, 1000)),
        tuple((_place_rate(rate), f"{100 * rate:g} %") for rate in (0.001, 0.01, 0.1)),
    )


def _place_count(count: float) -> float:
    """Return the x of a number of images, in pixels from the left."""
    return WIDTH * min(1.0, math.log10(max(count, 1)) / math.log10(_MAX_IMAGES))


def _place_rate(rate: float) -> float:
    """Return the y of a rate, in pixels from the top."""
    return HEIGHT * min(1.0, math.log10(rate) / math.log10(_MIN_RATE))
