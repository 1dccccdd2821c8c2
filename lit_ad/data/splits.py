"""Which images train, validate and test: a list of each, from a source and a seed alone."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from lit_ad.batch import Sample
from lit_ad.counts import format_count
from lit_ad.data.masks import check_masks
from lit_ad.data.sources.listing import readable
from lit_ad.data.sources.pages import by_page
from lit_ad.data.sources.source import Source, check, check_root
from lit_ad.errors import UserError, check_number

_UNDECIDED = (
    "Or train on it without a threshold, by data.split.val_fraction 0 and without decision.folds: lit-ad recalibrate "
    "sets one later, by other good images"
)


@dataclass(frozen=True)
class Splits:
    """The samples of a data set, by what they are for. `vars(splits)` is a mapping of the same."""

    train: list[Sample] = field(default_factory=list)  # nominal
    val: list[Sample] = field(default_factory=list)  # nominal, and held out of training
    test: list[Sample] = field(default_factory=list)


@dataclass(frozen=True)
class Split:
    """Which nominal images train, and which validate.

    Args:
        val_fraction: Part of the nominal training images that validates, in categories whose source lists no images for
            that. 0: none does, and no threshold is set.
        seed: Of that choice, of the folds, and of the shots.
        shots: Take so many nominal training images of each category, those of validation among them, to learn from few.
            None: all.
        folds: Into how many parts decision.folds divides the nominal images, in place of val_fraction; it sets this.
        fold: The part that this training leaves out, from 0; decision.folds sets it. None: all nominal images train.

    Raises:
        UserError: A value is out of its range.
    """

    val_fraction: float = 0.2
    seed: int = 0
    shots: int | None = None
    folds: int | Literal["leave-one-out"] | None = None
    fold: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise UserError(f"data.split.val_fraction is {self.val_fraction}, but it must be 0 or lie between 0 and 1")
        check_number("data.split.seed", self.seed, least=0)
        if self.shots is not None:
            check_number("data.split.shots", self.shots, least=1)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Split":
        """Return that of a run, by its configuration. Raises UserError if that is of an earlier version."""
        if "split" not in config["data"]:
            raise UserError("the run's config.yaml has no data.split: it is of an earlier version, see UPGRADING.md")
        return cls(**{**config["data"]["split"], "folds": (config.get("decision") or {}).get("folds")})

    @property
    def repeats(self) -> bool:
        """Whether the training of the first fold has said the same as this one has to say."""
        return self.folds is not None and self.fold != 0

    def choices(self) -> dict[str, Any]:
        """Return what decides which images are held out, by the names of the keys."""
        keys = {f"data.split.{name}": getattr(self, name) for name in ("val_fraction", "seed", "shots")}
        return {**keys, "decision.folds": self.folds}


def list_splits(source: Source, split: Split = Split()) -> Splits:
    """List the samples of a source for training, validation and test; each page of a file is one.

    Raises:
        UserError: There is nothing to train on, a sample is in two splits, or a mask is not to be found.
    """
    check_root(source, getattr(source, "root", None))
    with readable():
        samples = by_page(source.samples())
    check(samples)
    check_masks(samples)  # now, and not after hours of training
    test = [sample for sample in samples if sample.split == "test"]
    if split.shots is not None:
        samples = take_shots(samples, split.shots, split.seed)
    if split.folds is None:
        return Splits(*hold_out(samples, split.val_fraction, split.seed), test)
    numbers = assign_folds(samples, split.folds, split.seed)
    nominal = [sample for sample in samples if sample.split == "train"]
    left_out = [number is not None and number == split.fold for number in numbers]
    train, val = ([s for s, out in zip(nominal, left_out, strict=True) if out is held] for held in (False, True))
    return Splits(train, val, test)


def take_shots(samples: list[Sample], shots: int, seed: int) -> list[Sample]:
    """The samples with `shots` nominal training images of each category, by seed; fewer shots are a part of more.

    Raises UserError if a category has fewer.
    """
    categories: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.split == "train":
            categories[sample.category].append(sample)
    taken: set[Sample] = set()
    for name, nominal in categories.items():
        if len(nominal) < shots:
            subject = f"category {name!r}" if name else "the data set"
            have = format_count(len(nominal), "nominal training image")
            raise UserError(f"data.split.shots is {shots}, but {subject} has {have}: lower it")
        taken.update(nominal[i] for i in np.random.default_rng(seed).permutation(len(nominal))[:shots])
    return [sample for sample in samples if sample.split != "train" or sample in taken]


def assign_folds(samples: list[Sample], folds: int | Literal["leave-one-out"], seed: int) -> list[int | None]:
    """The fold of each nominal training image, in order; None of the only item of a category, which always trains.

    Each category is dealt out for itself, and images of one item lie in one fold.

    Raises:
        UserError: The source lists images for validation, no category has two images (or items), or there are more
            folds than images.
    """
    official = next((sample for sample in samples if sample.split == "validation"), None)
    if official is not None:
        raise UserError(
            f"the data set has validation images of its own, such as {official.image}, which decide: leave out "
            "decision.folds"
        )
    items: dict[str, dict[str | int, list[int]]] = defaultdict(lambda: defaultdict(list))
    nominal = [sample for sample in samples if sample.split == "train"]
    for row, sample in enumerate(nominal):
        items[sample.category][sample.item or row].append(row)
    most = max((len(of_category) for of_category in items.values()), default=0)
    if most < 2:
        raise UserError(
            "decision.folds needs two nominal images (or items) of a category, one to train on and one to score, and "
            f"there is no such category: one image alone decides nothing, give another one. {_UNDECIDED}"
        )
    count = most if folds == "leave-one-out" else folds
    if count > most:
        raise UserError(
            f"decision.folds is {count}, but there are {most} nominal images (or items): give at most {most}, or "
            "leave-one-out"
        )
    numbers: list[int | None] = [None] * len(nominal)
    dealt = 0
    for of_category in items.values():
        order = np.random.default_rng(seed).permutation(len(of_category))
        rows = list(of_category.values())
        for item in order if len(rows) > 1 else []:
            for row in rows[item]:
                numbers[row] = dealt % count
            dealt += 1
    return numbers


def count_folds(numbers: list[int | None]) -> int:
    """How many folds there are, of those that `assign_folds` gives."""
    return 1 + max(number for number in numbers if number is not None)


def hold_out(samples: list[Sample], fraction: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Training and validation samples: those of the source; of a category without validation, as `split_nominal` cuts.

    Raises UserError where there is nothing to train on.
    """
    train, official = ([s for s in samples if s.split == split] for split in ("train", "validation"))
    brought = {sample.category for sample in official}
    lacking = sorted(brought - {sample.category for sample in train})
    if lacking:
        raise UserError(f"category {lacking[0]!r} has validation images, but no nominal image to train on")
    to_cut = [sample for sample in train if sample.category not in brought]
    if not to_cut and official:
        return train, official
    cut = split_nominal(to_cut, fraction, seed)[1]
    held = set(cut)
    return [sample for sample in train if sample not in held], official + cut


def split_nominal(samples: list[Sample], fraction: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Training and validation samples: in each category, `fraction` of them validates, at least one.

    Images of one item stay together, so that it may be some more. Of several categories, one with a single image (or
    item) trains on it, and the held-out images of the others decide about it. Of a fraction of 0, none validates.
    Raises UserError if no category has two.
    """
    categories: dict[str, list[int]] = defaultdict(list)
    for i, sample in enumerate(samples):
        categories[sample.category].append(i)
    if not categories:
        raise UserError("no nominal image to train on: the source lists none")
    if fraction == 0:
        return samples, []
    held: set[int] = set()
    alone: UserError | None = None
    for name, rows in categories.items():
        items: dict[str | int, list[int]] = defaultdict(list)
        for row in rows:
            items[samples[row].item or row].append(row)
        if len(items) < 2:
            alone = alone or _single_error(name, [samples[row] for row in rows])
            continue
        count, kept = min(max(1, round(fraction * len(rows))), len(rows) - 1), 0
        order = [list(items)[i] for i in np.random.default_rng(seed).permutation(len(items))]
        for item in order[:-1]:  # one is left to train on
            if kept >= count:
                break
            held.update(items[item])
            kept += len(items[item])
    if alone is not None and not held:
        raise alone
    train = [sample for i, sample in enumerate(samples) if i not in held]
    return train, [samples[i] for i in sorted(held)]


def _single_error(category: str, samples: list[Sample]) -> UserError:
    """The error of a category whose only image, or the images of whose only item, cannot both train and decide."""
    subject = f"category {category!r}" if category else "the data set"
    if len(samples) == 1:
        return UserError(
            f"{subject} has one nominal training image, {samples[0].image}, but it takes two or more: one is kept for "
            f"validation. {_UNDECIDED}"
        )
    return UserError(
        f"{subject} has one item to train on, {samples[0].item}, but it takes two or more: one is kept for validation "
        "(the pages of a file are one item, unless a Table has a column item)"
    )
