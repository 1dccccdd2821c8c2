"""Compare an old and a new detector on images that neither of them has seen."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest, mannwhitneyu

from lit_ad.batch import Sample
from lit_ad.detector.decision import Decision
from lit_ad.detector.detector import Detector
from lit_ad.errors import UserError
from lit_ad.line.growth import DEFECTS, OLD_DEFECTS, OLD_GOOD, SAMPLED, SELECTED, Growth

_CONFIRMED = (SAMPLED, SELECTED, DEFECTS)


@dataclass(frozen=True)
class Comparison:
    """The numbers of wrong verdicts of two detectors on a group of images."""

    group: str
    images: int
    old: int  # wrong verdicts of the old detector as it was shipped
    anew: int  # wrong verdicts of the old detector with new thresholds, from the new detector's held-out images
    new: int  # wrong verdicts of the new detector

    @property
    def worse(self) -> bool:
        """Whether the new detector is wrong more often than the shipped one."""
        return self.new > self.old

    def compute_interval(self) -> tuple[float, float]:
        """Return Wilson's 95 % interval of the new detector's rate of wrong verdicts."""
        ends = binomtest(self.new, self.images).proportion_ci(method="wilson")
        return float(ends.low), float(ends.high)


def compare(old: Detector, new: Detector, growth: Growth) -> tuple[list[Comparison], dict[str, float]]:
    """Judge the groups of images by both detectors.

    Returns:
        A comparison for each group; and the image AUROC of both detectors ("old", "new") on the old test, if the test
        has good images and defects.

    Raises:
        UserError: A detector has no threshold.
    """
    held_out = [sample for sample in growth.samples if sample.split == "validation"]
    decisions = (_require_decision(old), _decide_anew(old, held_out), _require_decision(new))
    comparisons: list[Comparison] = []
    scores: dict[str, dict[str, list[float]]] = {"old": {}, "new": {}}
    for group, samples in growth.groups.items():
        for name, detector in (("old", old), ("new", new)):
            scores[name][group] = score(detector, samples)
        scores_by = (scores["old"][group], scores["old"][group], scores["new"][group])
        wrong = [_count_wrong(decision, values, samples) for decision, values in zip(decisions, scores_by, strict=True)]
        comparisons.append(Comparison(group, len(samples), *wrong))
    aurocs = {
        name: compute_image_auroc(by_group[OLD_GOOD], by_group[OLD_DEFECTS])
        for name, by_group in scores.items()
        if OLD_GOOD in by_group and OLD_DEFECTS in by_group
    }
    return comparisons, aurocs


def _count_wrong(decision: Decision, scores: Sequence[float], samples: Sequence[Sample]) -> int:
    """Count the wrong verdicts on samples (n,) with scores (n,)."""
    pairs = zip(scores, samples, strict=True)
    return sum(decision.anomalous(value, sample.category) != bool(sample.label) for value, sample in pairs)


def _require_decision(detector: Detector) -> Decision:
    """Return a detector's decision. Raises UserError if it has none."""
    if detector.card.decision is None:
        raise UserError("a detector without a threshold cannot be compared: lit-ad recalibrate sets one")
    return detector.card.decision


def _decide_anew(detector: Detector, held_out: Sequence[Sample]) -> Decision:
    """Score held-out images, and return the decision that they set for the same rate, as `lit-ad recalibrate` does."""
    scores: dict[str, list[float]] = defaultdict(list)
    for value, sample in zip(score(detector, held_out), held_out, strict=True):
        scores[sample.category].append(value)
    arrays = {category: np.array(values) for category, values in scores.items()}
    return Decision(arrays, false_alarm=_require_decision(detector).false_alarm)


def score(detector: Detector, samples: Sequence[Sample]) -> list[float]:
    """Return the score of each sample."""
    return [detection.score for detection in detector.stream([sample.image for sample in samples])]


def compute_image_auroc(nominal: Sequence[float], anomalous: Sequence[float]) -> float:
    """Return the probability that an anomalous image scores higher than a nominal one. Ties count half."""
    return float(mannwhitneyu(anomalous, nominal).statistic) / (len(nominal) * len(anomalous))


def list_reasons_against(comparisons: Iterable[Comparison]) -> list[str]:
    """List the groups of confirmed images on which the new detector is worse than the shipped one, as clauses."""
    what: Callable[[str], str] = lambda group: "misses" if group == DEFECTS else "false alarms"  # noqa: E731
    return [
        f"more {what(each.group)} ({each.new} of {each.images} {each.group}; the old one {each.old}, "
        f"and {each.anew} with thresholds made anew)"
        for each in comparisons
        if each.group in _CONFIRMED and each.worse
    ]


def to_dict(comparisons: Iterable[Comparison], aurocs: dict[str, float], joined: dict[str, int]) -> dict[str, Any]:
    """Return the report as plain values for JSON."""
    return {"comparisons": [asdict(each) for each in comparisons], "image_auroc": aurocs, "joined": joined}


def to_rows(comparisons: Iterable[Comparison]) -> list[list[str]]:
    """Return the report as rows of texts.

    The columns are: group; images; wrong verdicts of the old detector, of the old one with new thresholds, and of the
    new detector; and the interval of the new detector's rate.
    """
    rows = []
    for each in comparisons:
        low, high = each.compute_interval()
        ends = f"{100 * low:.1f} to {100 * high:.1f} %"
        rows.append([each.group, *map(str, (each.images, each.old, each.anew, each.new)), ends])
    return rows
