"""How an old and a new detector compare, on images that neither of them has seen."""

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
    """The wrong verdicts of two detectors on the images of a group."""

    group: str
    images: int
    old: int
    anew: int  # of the old one, with thresholds made anew by the same held-out images as the new one's
    new: int

    @property
    def worse(self) -> bool:
        """Whether the new one is wrong more often than the old one is, as it was shipped."""
        return self.new > self.old

    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the new one's rate."""
        ends = binomtest(self.new, self.images).proportion_ci(method="wilson")
        return float(ends.low), float(ends.high)


def compare(old: Detector, new: Detector, growth: Growth) -> tuple[list[Comparison], dict[str, float]]:
    """The wrong verdicts of both on each group, and the image AUROC of both on the old test, where it has one."""
    held_out = [sample for sample in growth.samples if sample.split == "validation"]
    decisions = (decision_of(old), _decide_anew(old, held_out), decision_of(new))
    comparisons: list[Comparison] = []
    scores: dict[str, dict[str, list[float]]] = {"old": {}, "new": {}}
    for group, samples in growth.groups.items():
        if not samples:
            continue
        for name, detector in (("old", old), ("new", new)):
            scores[name][group] = score(detector, samples)
        judged = (scores["old"][group], scores["old"][group], scores["new"][group])
        wrong = [_count_wrong(decision, of_all, samples) for decision, of_all in zip(decisions, judged, strict=True)]
        comparisons.append(Comparison(group, len(samples), *wrong))
    aurocs = {
        name: image_auroc(of_groups[OLD_GOOD], of_groups[OLD_DEFECTS])
        for name, of_groups in scores.items()
        if OLD_GOOD in of_groups and OLD_DEFECTS in of_groups
    }
    return comparisons, aurocs


def _count_wrong(decision: Decision, scores: Sequence[float], samples: Sequence[Sample]) -> int:
    """How many verdicts on samples (n,) are wrong, by their scores (n,)."""
    pairs = zip(scores, samples, strict=True)
    return sum(decision.anomalous(value, sample.category) != bool(sample.label) for value, sample in pairs)


def decision_of(detector: Detector) -> Decision:
    """A detector's decision. Raises UserError where it has none."""
    if detector.card.decision is None:
        raise UserError("a detector without a threshold cannot be compared: lit-ad recalibrate sets one")
    return detector.card.decision


def _decide_anew(detector: Detector, held_out: Sequence[Sample]) -> Decision:
    """The decision of a detector's scores of held-out images, for the same rate, as `lit-ad recalibrate` sets it."""
    scores: dict[str, list[float]] = defaultdict(list)
    for value, sample in zip(score(detector, held_out), held_out, strict=True):
        scores[sample.category].append(value)
    arrays = {category: np.array(values) for category, values in scores.items()}
    return Decision(arrays, false_alarm=decision_of(detector).false_alarm)


def score(detector: Detector, samples: Sequence[Sample]) -> list[float]:
    """The score of each sample."""
    return [detection.score for detection in detector.stream([sample.image for sample in samples])]


def image_auroc(nominal: Sequence[float], anomalous: Sequence[float]) -> float:
    """The probability that an anomalous image scores higher than a nominal one; ties count half."""
    return float(mannwhitneyu(anomalous, nominal).statistic) / (len(nominal) * len(anomalous))


def reasons_against(comparisons: Iterable[Comparison]) -> list[str]:
    """Where the new detector is worse on what people confirmed than the old one as it was shipped, in clauses."""
    what: Callable[[str], str] = lambda group: "misses" if group == DEFECTS else "false alarms"  # noqa: E731
    return [
        f"more {what(each.group)} ({each.new} of {each.images} {each.group}; the old one {each.old}, "
        f"and {each.anew} with thresholds made anew)"
        for each in comparisons
        if each.group in _CONFIRMED and each.worse
    ]


def as_dict(comparisons: Iterable[Comparison], aurocs: dict[str, float], joined: dict[str, int]) -> dict[str, Any]:
    """The report as plain values, for JSON."""
    return {"comparisons": [asdict(each) for each in comparisons], "image_auroc": aurocs, "joined": joined}


def in_rows(comparisons: Iterable[Comparison]) -> list[list[str]]:
    """The report as rows: group, images, wrong verdicts of the old, at both thresholds, and of the new; interval."""
    rows = []
    for each in comparisons:
        low, high = each.interval()
        ends = f"{100 * low:.1f} to {100 * high:.1f} %"
        rows.append([each.group, *map(str, (each.images, each.old, each.anew, each.new)), ends])
    return rows
