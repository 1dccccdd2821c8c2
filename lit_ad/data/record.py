"""The record of the data in a checkpoint, and the check whether a training may go on from it with other data.

An image is identified by its size and its path below the folder that holds all images, so that a data set may move.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from lit_ad.batch import Sample
from lit_ad.counts import format_count
from lit_ad.data.splits import Splits
from lit_ad.errors import UserError
from lit_ad.image.pixels import split_page


class DataRecord:
    """The images of a training, and the settings that choose and order them.

    Args:
        splits: The samples.
        settings: Plain values by the names of their keys.
    """

    def __init__(self, splits: Splits, settings: Mapping[str, Any]) -> None:
        self.splits, self.settings = splits, dict(settings)
        self.root = common_folder(sample.image for sample in chain(splits.train, splits.val, splits.test))
        self.trained = set(identities(splits.train, self.root))
        self.held_out = digest(identities(splits.val, self.root))

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain values, for checkpoints; an image is a number of 63 bits."""
        return {
            **{"settings": self.settings, "root": str(self.root)},
            **{"trained": sorted(self.trained), "held_out": self.held_out},
        }

    def go_on(self, earlier: Mapping[str, Any]) -> list[str]:
        """Compare this record with that of the checkpoint from which the training goes on.

        Args:
            earlier: The record in the checkpoint, from `to_dict`.

        Returns:
            One line for each difference.

        Raises:
            UserError: Images that were trained on would be held out or tested.
        """
        changed = {
            name: (earlier["settings"][name], value)
            for name, value in self.settings.items()
            if name in earlier["settings"] and earlier["settings"][name] != value
        }
        trained, before = set(earlier["trained"]), Path(earlier["root"])
        for samples, fate in ((self.splits.val, "held out"), (self.splits.test, "tested")):
            known = identities(samples, self.root, before)
            leaked = [sample.image for sample, number in zip(samples, known, strict=True) if number in trained]
            if leaked:
                choices = [f"{name} {then}" for name, (then, _) in changed.items() if name in CHOICES]
                if not earlier["settings"].keys() >= {*CHOICES}:  # of a version that had other keys, see UPGRADING.md
                    choices.append("data.split as it was")
                raise UserError(
                    f"{format_count(len(leaked), 'image')} that the checkpoint was trained on would now be {fate}, "
                    f"such as {leaked[0]}: give {' and '.join(choices) or 'the data.source as it was'}, or train anew"
                )
        lines = [f"{name}: {now} from here on, {then} in the checkpoint" for name, (then, now) in changed.items()]
        if before != self.root:
            lines.append(f"images below {self.root} from here on, below {before} in the checkpoint")
        now_trained = set(identities(self.splits.train, self.root, before))
        new, gone = len(now_trained - trained), len(trained - now_trained)
        if new or gone:
            lines.append(
                f"of {format_count(len(now_trained), 'training image')}, {new} new; {gone} of the checkpoint gone"
            )
        held_out = digest(identities(self.splits.val, self.root, before))
        if held_out != earlier["held_out"]:
            lines.append("other images are held out: val/loss does not compare with that of the best checkpoint so far")
        self.trained, self.held_out = now_trained | trained, held_out
        if any(sample.image.absolute().is_relative_to(before) for sample in self.splits.train):
            self.root = before
        return lines


# Keys that decide which images are held out.
CHOICES = ("data.split.val_fraction", "data.split.seed", "data.split.shots", "decision.folds", "data.source")


def common_folder(images: Iterable[Path]) -> Path:
    """Return the deepest folder that holds all images."""
    folders = {str(image.absolute().parent) for image in images}
    return Path(os.path.commonpath(folders)) if folders else Path()


def digest(numbers: list[int]) -> str:
    """Return a hash of a set of numbers, 16 hexadecimal digits."""
    return hashlib.blake2b(str(sorted(numbers)).encode(), digest_size=8).hexdigest()


def identities(samples: Iterable[Sample], root: Path, before: Path | None = None) -> list[int]:
    """Return a number of 63 bits for each image: a hash of its path below `root` and of its size in bytes. For an image
    that is still below an earlier root, `before`, its path below that one is used."""
    numbers = []
    for sample in samples:
        image = sample.image.absolute()
        base = before if before is not None and image.is_relative_to(before) else root
        size = split_page(image)[0].stat().st_size
        name = os.fsencode(image.relative_to(base)) + b"\0" + str(size).encode()
        numbers.append(int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) >> 1)
    return numbers
