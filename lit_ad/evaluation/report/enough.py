"""How many images a run has, and how many it wants: for the rate that was asked for, and for a narrow recall."""

import math
from dataclasses import dataclass
from typing import Any

from lit_ad.counts import format_count
from lit_ad.evaluation.results import POOLED, Results, Row

WIDTH, HEIGHT = 420, 130  # of the picture's axes, pixels
_MOST = 1000  # images, at the right end of the picture
LEAST = 0.001  # rate, at its lower end


@dataclass(frozen=True)
class Enough:
    """Of a threshold, in words."""

    name: str  # the category; all images
    deciding: str  # how many images decide, and how
    lowest: str  # rate that they allow
    more: str  # images for the rate that was asked for
    promised: str  # more images to promise it with confidence
    recall: str  # of the anomalous images that were tested


@dataclass(frozen=True)
class Picture:
    """The lowest rate against the number of images, both logarithmic, as an SVG has it."""

    line: str  # points of the lowest rate
    asked: float  # height of the rate that was asked for
    have: tuple[float, float]  # where this run is
    ticks: tuple[tuple[float, str], ...]  # places of numbers of images
    rates: tuple[tuple[float, str], ...]  # heights of rates


def list_enough(results: Results) -> list[Enough]:
    """Return a line for each threshold of the rate; nothing without a decision, or of thresholds set by hand."""
    decision = results.decision or {}
    thresholds = decision.get("thresholds", [])
    return [describe(each, results) for each in thresholds if "folds" in each and not each["image"]["by_hand"]]


def describe(threshold: dict[str, Any], results: Results) -> Enough:
    """Return what a threshold of `summary.summarize` takes, and the recall of its category."""
    have, category = threshold["image"]["held_out"], threshold["category"]
    more = [max(0, threshold[key] - have) for key in ("held_out_for_the_rate", "held_out_for_the_rate_with_confidence")]
    how = f"all, by {format_count(threshold['folds'], 'fold')}" if threshold["folds"] else "held out of training"
    row = results.rows[POOLED] if category is None else results.rows.get(f"{category}/", {})
    promised = "not by folds" if threshold["folds"] else f"{more[1]} more" if threshold["exact"] else "not as it is"
    return Enough(
        "all images" if category is None else category,
        f"{have} ({how})",
        f"{100 / (have + 1):.3g} %",
        f"{more[0]} more" if more[0] else "enough",
        "enough" if promised == "0 more" else promised,
        _describe_recall(row),
    )


def _describe_recall(row: Row) -> str:
    """Return how many anomalous images were found, with the 95 % interval of that share."""
    anomalous = int(row.get("anomalous_images", 0))
    misses = row.get("misses", math.nan)
    if not anomalous or math.isnan(misses):
        return "no anomalous image was tested"
    low, high = (100 * (1 - row[f"miss_rate_{end}"]) for end in ("high", "low"))
    return f"{anomalous - int(misses)} of {anomalous}: {low:.0f} to {high:.0f} %"


def draw(results: Results) -> Picture | None:
    """Return the picture of the images of all categories together; None where no rate was asked for."""
    thresholds = (results.decision or {}).get("thresholds", [])
    if not thresholds or not results.false_alarm:
        return None
    have = thresholds[-1]["image"]["held_out"]
    counts = [10 ** (step / 20) for step in range(int(20 * math.log10(_MOST)) + 1)]
    return Picture(
        " ".join(f"{across(count):.1f},{up(1 / (count + 1)):.1f}" for count in counts),
        up(results.false_alarm),
        (across(have), up(1 / (have + 1))),
        tuple((across(count), str(count)) for count in (1, 10, 100, 1000)),
        tuple((up(rate), f"{100 * rate:g} %") for rate in (0.001, 0.01, 0.1)),
    )


def across(count: float) -> float:
    """Return the place of a number of images, in pixels from the left."""
    return WIDTH * min(1.0, math.log10(max(count, 1)) / math.log10(_MOST))


def up(rate: float) -> float:
    """Return the place of a rate, in pixels from the top."""
    return HEIGHT * min(1.0, math.log10(rate) / math.log10(LEAST))
