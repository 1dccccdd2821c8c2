"""What lists a data set's samples; and the listing and checking that all sources share."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lit_ad.batch import Sample
from lit_ad.errors import UserError
from lit_ad.pixels import EXTENSIONS


class Source(ABC):
    """Anything that lists the samples of a data set: a new data set is one subclass."""

    def prepare(self) -> None:  # noqa: B027  # most sources have nothing to make
        """Download or make the files. Runs in one process per machine, before any `samples`."""

    @abstractmethod
    def samples(self) -> list[Sample]:
        """Train and test samples together, sorted within each split. Raises UserError where files do not fit."""

    def tasks(self) -> dict[str, dict[str, Any]]:
        """The rows of a benchmark on this data set: for each task, a name and the arguments of this class that make
        it. One task, the whole, unless the data set has parts that are learned apart."""
        return {"all": {}}


def is_image(path: Path) -> bool:
    """Whether the name is an image's; hidden files (such as `._x.png` of macOS) are not."""
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")


def list_folders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones. An absent folder has none."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")) if folder.is_dir() else []


def list_images(folder: Path) -> list[Path]:
    """The images that lie directly in a folder, sorted.

    Raises UserError if there is no such folder, no image in it, or two images whose names differ in extension only.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: it should hold images")
    images = sorted(p for p in folder.iterdir() if is_image(p) and p.is_file())
    if not images:
        deeper = sum(is_image(p) for p in folder.rglob("*"))
        hint = f" ({deeper} lie in folders inside it)" if deeper else ""
        raise UserError(f"no image in {folder}{hint}: it should hold {', '.join(EXTENSIONS)} files")
    by_stem(images)
    return images


def by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """The files by their names without extension. Raises UserError on two files with one name."""
    found: dict[str, Path] = {}
    for path in paths:
        other = found.setdefault(path.stem, path)
        if other != path:
            raise UserError(f"two files with one name: {other} and {path}; rename or remove one of them")
    return found


def pair_masks(images: Iterable[Path], masks: Iterable[Path]) -> dict[Path, Path]:
    """Image -> its mask, which is named like it, with or without `_mask` at the end. Images may lack a mask.

    Raises UserError on a mask without an image, and on two masks or two images with one name.
    """
    named = by_stem(images)
    pairs: dict[Path, Path] = {}
    for mask in masks:
        image = named.get(mask.stem) or named.get(mask.stem.removesuffix("_mask"))
        if image is None:
            raise UserError(f"mask without an image: {mask} belongs to no image named {mask.stem} or without `_mask`")
        if image in pairs:
            raise UserError(f"two masks for {image}: {pairs[image]} and {mask}; remove one of them")
        pairs[image] = mask
    return pairs


def check(samples: Sequence[Sample]) -> None:
    """Raises UserError on what no source may offer: an anomalous image in training, or one image twice."""
    seen: dict[Path, Sample] = {}
    for sample in samples:
        if sample.split == "train" and sample.label != 0:
            raise UserError(
                f"anomalous image in training: {sample.image} ({sample.defect}); training takes nominal images only"
            )
        other = seen.setdefault(sample.image, sample)
        if other is not sample:
            where = f"as {other.split}/{other.defect} and as {sample.split}/{sample.defect}"
            raise UserError(f"one image listed twice: {sample.image}, {where}")
