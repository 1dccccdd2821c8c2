"""Which images train, validate and test: a list of each, from a source and a seed alone."""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from lit_ad.batch import Sample
from lit_ad.data.masks import check_masks
from lit_ad.data.sources.listing import readable
from lit_ad.data.sources.pages import by_page
from lit_ad.data.sources.source import Source, check, check_root
from lit_ad.errors import UserError


@dataclass(frozen=True)
class Splits:
    """The samples of a data set, by what they are for. `vars(splits)` is a mapping of the same."""

    train: list[Sample] = field(default_factory=list)  # nominal
    val: list[Sample] = field(default_factory=list)  # nominal, and held out of training
    test: list[Sample] = field(default_factory=list)


def list_splits(source: Source, val_fraction: float = 0.2, seed: int = 0) -> Splits:
    """List the samples of a source for training, validation and test; each page of a file is one.

    Args:
        source: The data set.
        val_fraction: Part of the nominal training images that validates, in categories whose source lists no images for
            that.
        seed: Of that choice.

    Raises:
        UserError: There is nothing to train on, a sample is in two splits, or a mask is not to be found.
    """
    check_root(source, getattr(source, "root", None))
    with readable():
        samples = by_page(source.samples())
    check(samples)
    check_masks(samples)  # now, and not after hours of training
    train, val = hold_out(samples, val_fraction, seed)
    return Splits(train, val, [sample for sample in samples if sample.split == "test"])


def check_val_fraction(fraction: float) -> None:
    """Raises UserError if it is not a part of the images that leaves some to train on."""
    if not 0 < fraction < 1:
        raise UserError(f"data.val_fraction is {fraction}, but it must lie between 0 and 1")


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

    Images of one item stay together, so that it may be some more. Raises UserError if there are not two images, or two
    items.
    """
    categories: dict[str, list[int]] = defaultdict(list)
    for i, sample in enumerate(samples):
        categories[sample.category].append(i)
    if not categories:
        raise UserError("no nominal image to train on: the source lists none")
    held: set[int] = set()
    for name, rows in categories.items():
        whole = f"category {name!r}" if name else "the data set"
        if len(rows) < 2:
            raise UserError(
                f"{whole} has one nominal training image, {samples[rows[0]].image}, but it takes two or "
                "more: one is kept for validation"
            )
        items: dict[str | int, list[int]] = defaultdict(list)
        for row in rows:
            items[samples[row].item or row].append(row)
        if len(items) < 2:
            raise UserError(
                f"{whole} has one item to train on, {samples[rows[0]].item}, but it takes two or more: one "
                "is kept for validation (the pages of a file are one item, unless a Table has a column item)"
            )
        count, kept = min(max(1, round(fraction * len(rows))), len(rows) - 1), 0
        order = [list(items)[i] for i in np.random.default_rng(seed).permutation(len(items))]
        for item in order[:-1]:  # one is left to train on
            if kept >= count:
                break
            held.update(items[item])
            kept += len(items[item])
    train = [sample for i, sample in enumerate(samples) if i not in held]
    return train, [samples[i] for i in sorted(held)]
