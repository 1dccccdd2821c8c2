"""What a detector grows by, and what it gains: confirmed images join its own, and old and new are compared.

An image keeps its side for good: what has trained is never tested or held out, however many are labelled later.
"""

import csv
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest, mannwhitneyu

from lit_ad.batch import Sample, Split
from lit_ad.data.sources.journal import Labelled, read_labelled
from lit_ad.data.splits import Splits
from lit_ad.detector.decision import Decision
from lit_ad.detector.detector import Detector
from lit_ad.errors import UserError
from lit_ad.files import atomic_write
from lit_ad.names import tell

COLUMNS = ("path", "split", "label", "mask", "category", "defect", "item")
SAMPLED, SELECTED = "new good images, of the random sample", "new good images, kept for their scores"
DEFECTS, OLD_GOOD, OLD_DEFECTS = "confirmed defects", "old test, good", "old test, defects"
_CONFIRMED = (SAMPLED, SELECTED, DEFECTS)


@dataclass
class Growth:
    """The images of a grown data set, and those that old and new detector are compared by.

    Args:
        samples: Of all splits.
        groups: The images of each comparison, none of which trained or decided either detector.
        joined: How many new images have each split.
    """

    samples: list[Sample]
    groups: dict[str, list[Sample]]
    joined: dict[str, int]


def gather(splits: Splits, folder: Path, only_new_decide: bool = False, seed: int = 0) -> Growth:
    """Let the confirmed images of a journal join a data set.

    Of the good ones in the random sample, half trains, a quarter decides and a quarter tests; of the other good ones,
    which were kept because of their scores, three quarters train, and none decides. Defects test.

    Args:
        splits: What the old detector was trained, decided and tested with.
        folder: DIR of the journal.
        only_new_decide: Whether new held-out images take the place of the old ones, in place of joining them.
        seed: Of the choice of sides.

    Raises:
        UserError: No image is labelled good.
    """
    pictures = folder / "pictures"
    labelled = [each for each in read_labelled(folder) if each.label != "unsure"]
    if not any(each.label == "good" for each in labelled):
        raise UserError(f"no image in {folder} is labelled good: label some on the service's page, /review")
    known = {sample.image: sample for sample in _with_splits(splits.train, splits.val, splits.test)}
    categories = list(dict.fromkeys(sample.category for sample in splits.train))
    old_test = [sample for sample in splits.test if not sample.image.is_relative_to(pictures)]
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in old_test:
        groups[OLD_DEFECTS if sample.label else OLD_GOOD].append(sample)
    train, test, new_val = list(splits.train), list(old_test), list[Sample]()
    joined: dict[str, int] = defaultdict(int)
    for each in labelled:
        category = _category_of(each, categories)
        if category is None:
            continue
        split = _side_of(each, known.get(pictures / each.picture), seed)
        kind = (each.defect or "anomalous") if each.label == "defect" else "good"
        sample = Sample(pictures / each.picture, int(each.label == "defect"), None, category, kind, split)
        joined[split] += sample.image not in known
        if split == "validation":
            new_val.append(sample)
        elif split == "train":
            if sample.image not in known:
                train.append(sample)
        else:
            test.append(sample)
            groups[DEFECTS if sample.label else SAMPLED if each.sampled else SELECTED].append(sample)
    new_ones = {sample.image for sample in new_val}
    val = new_val if only_new_decide else [s for s in splits.val if s.image not in new_ones] + new_val
    if not val:
        raise UserError(
            f"no image in {folder} can decide: label more of its random sample good, which only --watch.sample draws"
        )
    defects = {pictures / each.picture for each in labelled if each.label == "defect"}
    taken_back = [sample for sample in train if sample.image in defects]
    if taken_back:
        tell(f"Of the images that trained, {len(taken_back)} are defects now, and train no more")
    train, val = ([sample for sample in samples if sample.image not in defects] for samples in (train, val))
    trained = {sample.image for sample in splits.train}
    test = [sample for sample in test if sample.image not in trained]
    groups = {name: [s for s in samples if s.image not in trained] for name, samples in groups.items()}
    return Growth(list(_with_splits(train, val, test)), groups, dict(joined))


def _with_splits(train: Iterable[Sample], val: Iterable[Sample], test: Iterable[Sample]) -> Iterable[Sample]:
    """Yield each sample with its split."""
    named: tuple[tuple[Split, Iterable[Sample]], ...] = (("train", train), ("validation", val), ("test", test))
    for split, samples in named:
        for sample in samples:
            yield sample._replace(split=split)


def _category_of(image: Labelled, categories: Sequence[str]) -> str | None:
    """The category of the data set that an image of a line is of. None: none is known, and the image is left out."""
    if image.category in categories:
        return image.category
    return categories[0] if len(categories) == 1 and not image.category else None


def _side_of(image: Labelled, earlier: Sample | None, seed: int) -> Split:
    """Where an image goes: where it is already, or as chance has it, by its number."""
    if image.label == "defect":
        return "test"
    if earlier is not None:
        return earlier.split
    chance = random.Random(f"{seed}/{image.number}").random()
    if image.sampled:
        return "train" if chance < 0.5 else "validation" if chance < 0.75 else "test"
    return "train" if chance < 0.75 else "test"


def write_samples(samples: Iterable[Sample], file: Path) -> None:
    """Write samples as a `Table`. Masks that a table cannot name, those of several files or levels, are left out."""
    with atomic_write(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(COLUMNS)
        for sample in samples:
            plain = sample.mask is not None and sample.mask_above is None and sample.mask.is_file()
            defect = sample.defect if sample.label else ""
            mask = sample.mask if plain and sample.label else ""
            writer.writerow((sample.image, sample.split, sample.label, mask, sample.category, defect, sample.item))


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
