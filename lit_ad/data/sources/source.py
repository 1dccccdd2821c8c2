"""What lists a data set's samples; and the listing and checking that all sources share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lit_ad.batch import Sample
from lit_ad.errors import UserError
from lit_ad.evaluation.protocols import Rules
from lit_ad.image.pixels import EXTENSIONS, split_page


class Source(ABC):
    """Anything that lists the samples of a data set: a new data set is one subclass."""

    def prepare(self) -> None:  # noqa: B027  # most sources have nothing to make
        """Download or make the files. Runs in one process per machine, before any `samples`."""

    @abstractmethod
    def samples(self) -> list[Sample]:
        """The samples of all splits together, sorted within each. Raises UserError where files do not fit.

        A TIFF of several pages is listed as a file is, and becomes a sample for each page (`pages.by_page`).
        Nominal images that the data set itself holds out of training have the split validation.
        """

    def tasks(self) -> dict[str, dict[str, Any]]:
        """The rows of a benchmark on this data set: for each task, a name and the arguments of this class that make
        it. One task, the whole, unless the data set has parts that are learned apart."""
        return {"all": {}}

    def rules(self) -> Rules | None:
        """What the data set is scored by, beside the metrics of every test, if it has rules of its own."""
        return None

    def remarks(self) -> list[str]:
        """What `samples` passes over and may be a mistake, such as a folder with a misspelled name: a sentence each.

        Asked once, before training. Raises UserError on what no test would get past.
        """
        return []


@contextmanager
def readable() -> Iterator[None]:
    """Has a folder that the system does not let us list end in a UserError that names it."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot read {error.filename}: {error.strerror}; see to its permissions, or its disk"
        ) from error


def find_root(root: Path, fits: Callable[[Path], bool]) -> Path:
    """The folder that fits: `root`, or the first such one inside it, since archives often hold a folder; or `root`."""
    return next((folder for folder in (root, *list_folders(root)) if fits(folder)), root)


def choose(category: str | list[str] | None, known: Iterable[str], root: Path) -> list[str]:
    """The categories asked for, all of them if None. Raises UserError on one that is not there."""
    wanted, known = [category] if isinstance(category, str) else category, list(known)
    absent = [name for name in wanted or [] if name not in known]
    if absent:
        raise UserError(f"no category {', '.join(absent)} in {root}: there are {', '.join(known)}")
    return known if wanted is None else wanted


def existing(path: Path, where: str) -> Path:
    """A file, or a page of one, named at `where`, such as a row of a table. Raises UserError if there is none."""
    file, _ = split_page(path)
    with readable():
        if not file.is_file():
            raise UserError(f"{where}: there is no file {file}")
    return path


def is_image(path: Path) -> bool:
    """Whether the name is an image's; hidden files (such as `._x.png` of macOS) are not."""
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")


def list_folders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones. An absent folder has none."""
    with readable():
        inside = folder.iterdir() if folder.is_dir() else ()
        return sorted(p for p in inside if p.is_dir() and not p.name.startswith("."))


def holds_images(folder: Path) -> bool:
    """Whether there are images directly in a folder; an absent one has none."""
    with readable():
        return folder.is_dir() and any(is_image(path) for path in folder.iterdir())


def list_images(folder: Path) -> list[Path]:
    """The images that lie directly in a folder, sorted.

    Raises UserError if there is no such folder, it cannot be read, there is no image in it, or two images whose names
    differ in extension only.
    """
    with readable():
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder: it should hold images")
        named = sorted(p for p in folder.iterdir() if is_image(p))
        images = [p for p in named if p.is_file()]
    if not images:
        deeper, broken = sum(is_image(p) for p in folder.rglob("*/*")), sum(p.is_symlink() for p in named)
        hint = f" ({deeper} lie in folders inside it)" if deeper else f" ({broken} are broken links)" if broken else ""
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
    """Raises UserError on what no source may offer: an anomalous image to train or validate on, one image twice, or
    images of one item in several splits."""
    seen: dict[Path, Sample] = {}
    items: dict[tuple[str, str], Sample] = {}
    for sample in samples:
        if sample.split in ("train", "validation") and sample.label != 0:
            where = {"train": "training"}.get(sample.split, sample.split)
            raise UserError(
                f"anomalous image in {where}: {sample.image} ({sample.defect}); {where} takes nominal images only"
            )
        other = seen.setdefault(sample.image, sample)
        if other is not sample:
            where = f"as {other.split}/{other.defect} and as {sample.split}/{sample.defect}"
            raise UserError(f"one image listed twice: {sample.image}, {where}")
        first = items.setdefault((sample.category, sample.item), sample) if sample.item else sample
        if first.split != sample.split:
            raise UserError(
                f"item {sample.item!r} in {first.split} and in {sample.split}: {first.image} and {sample.image}; keep "
                "its images on one side"
            )
