"""Split the samples of a source into training, validation and test. The result depends on source and seed only."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from lit_ad.batch import Sample
from lit_ad.counts import format_count
from lit_ad.data.masks import check_masks
from lit_ad.data.sources.listing import os_errors_as_user_errors
from lit_ad.data.sources.pages import split_pages
from lit_ad.data.sources.source import Source, check_root, check_samples
from lit_ad.errors import UserError, check_number

_WITHOUT_THRESHOLD = (
    "Or set data.split.val_fraction to 0, and leave out decision.folds, to train without a threshold; `lit-ad "
    "recalibrate` can set one later from other good images"
)


@dataclass(frozen=True)
class Splits:
    """The samples of a data set by split. `vars(splits)` maps the splits' names to them."""

    train: list[Sample] = field(default_factory=list)  # nominal
    val: list[Sample] = field(default_factory=list)  # nominal, held out of training
    test: list[Sample] = field(default_factory=list)


@dataclass(frozen=True)
class Split:
    """Options that decide which nominal images are used for training, and which are held out.

    Args:
        val_fraction: Fraction of the nominal training images that is held out for validation, in categories without
            validation images in the source. 0: none, and no threshold is set.
        seed: Seed that draws these images, the folds and the shots.
        shots: Number of nominal training images to take from each category, including those held out, to learn from few
            images. None: all.
        folds: Number of parts into which decision.folds cuts the nominal images, instead of val_fraction;
            decision.folds sets it.
        fold: The part that this training leaves out, from 0; decision.folds sets it. None: all nominal images
            are used for training.

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
        """Return the options of a run's configuration. Raises UserError if an earlier version wrote it."""
        if "split" not in config["data"]:
            raise UserError("the run's config.yaml has no data.split: an earlier version wrote it, see UPGRADING.md")
        return cls(**{**config["data"]["split"], "folds": (config.get("decision") or {}).get("folds")})

    @property
    def repeats(self) -> bool:
        """Whether the training of an earlier fold has printed the same lines."""
        return self.folds is not None and self.fold != 0

    def choices(self) -> dict[str, Any]:
        """Return the options that decide which images are held out, by the names of their keys."""
        keys = {f"data.split.{name}": getattr(self, name) for name in ("val_fraction", "seed", "shots")}
        return {**keys, "decision.folds": self.folds}


def list_splits(source: Source, split: Split = Split()) -> Splits:
    """List the samples of a source for training, validation and test. Each page of a file is a sample.

    Raises:
        UserError: There is no image to train on, a sample is in two splits, or a mask is missing.
    """
    check_root(source, getattr(source, "root", None))
    with os_errors_as_user_errors():
        samples = split_pages(source.samples())
    check_samples(samples)
    check_masks(samples)  # a wrong mask must end the run now, and not after hours of training
    test = [sample for sample in samples if sample.split == "test"]
    if split.shots is not None:
        samples = take_shots(samples, split.shots, split.seed)
        decides = split.folds is not None or split.val_fraction > 0
        if split.shots == 1 and decides and all(sample.split != "validation" for sample in samples):
            raise UserError(
                "data.split.shots is 1, but a threshold takes two nominal images of a category, one to train on and "
                f"one to score: raise it. {_WITHOUT_THRESHOLD}"
            )
    if split.folds is None:
        return Splits(*hold_out(samples, split.val_fraction, split.seed), test)
    numbers = assign_folds(samples, split.folds, split.seed)
    nominal = [sample for sample in samples if sample.split == "train"]
    left_out = [number is not None and number == split.fold for number in numbers]
    train, val = ([s for s, out in zip(nominal, left_out, strict=True) if out is held] for held in (False, True))
    return Splits(train, val, test)


def take_shots(samples: list[Sample], shots: int, seed: int) -> list[Sample]:
    """Return the samples with only `shots` nominal training images of each category, drawn by a seed. With the same
    seed, fewer shots are a subset of more shots.

    Raises:
        UserError: A category has fewer images.
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
            raise UserError(
                f"data.split.shots is {shots}, but {subject} has {have}: lower it, or give null to take all"
            )
        taken.update(nominal[i] for i in np.random.default_rng(seed).permutation(len(nominal))[:shots])
    return [sample for sample in samples if sample.split != "train" or sample in taken]


def assign_folds(samples: list[Sample], folds: int | Literal["leave-one-out"], seed: int) -> list[int | None]:
    """Return the fold of each nominal training image, in order; None for the only item of a category, which always
    trains. The images of each category are distributed over the folds; images of one item are in one fold.

    Raises:
        UserError: The source has validation images, no category has two images (or items), or there are more folds than
            images.
    """
    official = next((sample for sample in samples if sample.split == "validation"), None)
    if official is not None:
        raise UserError(
            f"the data set has validation images of its own, such as {official.image}, which set the threshold: leave "
            "out decision.folds"
        )
    items: dict[str, dict[str | int, list[int]]] = defaultdict(lambda: defaultdict(list))
    nominal = [sample for sample in samples if sample.split == "train"]
    for row, sample in enumerate(nominal):
        items[sample.category][sample.item or row].append(row)
    most = max((len(rows_by_item) for rows_by_item in items.values()), default=0)
    if most < 2:
        raise UserError(
            "decision.folds needs two nominal images (or items) of a category, one to train on and one to score, but "
            f"each category has only one: give another image. {_WITHOUT_THRESHOLD}"
        )
    count = most if folds == "leave-one-out" else folds
    if count > most:
        raise UserError(
            f"decision.folds is {count}, but there are {most} nominal images (or items): give at most {most}, or "
            "leave-one-out"
        )
    numbers: list[int | None] = [None] * len(nominal)
    assigned = 0
    for rows_by_item in items.values():
        order = np.random.default_rng(seed).permutation(len(rows_by_item))
        rows = list(rows_by_item.values())
        for item in order if len(rows) > 1 else []:
            for row in rows[item]:
                numbers[row] = assigned % count
            assigned += 1
    return numbers


def count_folds(numbers: list[int | None]) -> int:
    """Return the number of folds in the result of `assign_folds`."""
    return 1 + max(number for number in numbers if number is not None)


def hold_out(samples: list[Sample], fraction: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Return training and validation samples: the source's own validation images, and in categories without any, those
    that `split_nominal` draws.

    Raises:
        UserError: There is no image to train on.
    """
    train, official = ([s for s in samples if s.split == split] for split in ("train", "validation"))
    with_validation = {sample.category for sample in official}
    untrained = sorted(with_validation - {sample.category for sample in train})
    if untrained:
        raise UserError(f"category {untrained[0]!r} has validation images, but no nominal image to train on")
    to_split = [sample for sample in train if sample.category not in with_validation]
    if not to_split and official:
        return train, official
    drawn = split_nominal(to_split, fraction, seed)[1]
    held = set(drawn)
    return [sample for sample in train if sample not in held], official + drawn


def split_nominal(samples: list[Sample], fraction: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Return training and validation samples: `fraction` of each category is held out, but at least one image.

    Images of one item stay together, so that a few more may be held out. A category with a single image (or item)
    trains on it, and the held-out images of the other categories set its threshold. With a fraction of 0, none is
    held out.

    Raises:
        UserError: There is no image, or no category has two images (or items).
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
            alone = alone or _make_single_error(name, [samples[row] for row in rows])
        count, kept = max(1, round(fraction * len(rows))), 0
        order = [list(items)[i] for i in np.random.default_rng(seed).permutation(len(items))]
        for item in order[:-1]:  # at least one item stays for training, so a single one is not held out
            if kept >= count:
                break
            held.update(items[item])
            kept += len(items[item])
    if alone is not None and not held:
        raise alone
    train = [sample for i, sample in enumerate(samples) if i not in held]
    return train, [samples[i] for i in sorted(held)]


def _make_single_error(category: str, samples: list[Sample]) -> UserError:
    """Return the error of a category with a single image, or with a single item, which cannot train and validate."""
    subject = f"category {category!r}" if category else "the data set"
    if len(samples) == 1:
        return UserError(
            f"{subject} has one nominal training image, {samples[0].image}, but it takes two or more: one is kept for "
            f"validation. {_WITHOUT_THRESHOLD}"
        )
    return UserError(
        f"{subject} has one item to train on, {samples[0].item}, but it takes two or more: one is kept for validation "
        "(the pages of a file are one item, unless a Table has a column item)"
    )
