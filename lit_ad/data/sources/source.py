"""What lists a data set's samples; and the listing and checking that all sources share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from lit_ad.batch import Sample
from lit_ad.data.sources.listing import list_folder, list_tree, readable
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

    def shift(self) -> dict[str, Any] | None:
        """How `lit-ad data shift` changed the test images: kind, strength and seed. None: it did not."""
        return None

    def remarks(self) -> list[str]:
        """What `samples` passes over and may be a mistake, such as a folder with a misspelled name: a sentence each.

        Asked once, before training. Raises UserError on what no test would get past.
        """
        return []


def check_root(source: Source | type[Source], root: object) -> None:
    """Raises UserError if a data set's folder is not there, and the source does not make it."""
    kind = source if isinstance(source, type) else type(source)
    if isinstance(root, Path | str) and kind.prepare is Source.prepare and not Path(root).is_dir():
        what = f"{root} is a file" if Path(root).exists() else f"there is no folder {root}"
        raise UserError(f"{what}: data.source.root is the folder that holds the images of the data set")


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


def list_folders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones. An absent folder has none."""
    return list_folder(folder).folders if _is_folder(folder) else []


def holds_images(folder: Path) -> bool:
    """Whether there are images directly in a folder; an absent one has none."""
    return _is_folder(folder) and bool(list_folder(folder).images)


def list_images(folder: Path) -> list[Path]:
    """The images that lie directly in a folder, sorted.

    Raises UserError if there is no such folder, it cannot be read, there is no image in it, or two images whose names
    differ in extension only.
    """
    if not _is_folder(folder):
        raise UserError(f"{folder} is not a folder: it should hold images")
    listing = list_folder(folder)
    if not listing.images:
        deeper, broken = len(list_tree(folder).images), len(listing.broken)
        hidden = sum(path.suffix.lower() in EXTENSIONS for path in listing.hidden)
        hint = f" ({broken} are broken links)" if broken else f" ({hidden} are hidden)" if hidden else ""
        hint = f" ({deeper} lie in folders inside it)" if deeper else hint
        raise UserError(f"no image in {folder}{hint}: it should hold {', '.join(EXTENSIONS)} files")
    _by_stem(listing.images)
    return listing.images


def _is_folder(path: Path) -> bool:
    """Whether there is a folder of this name. Raises UserError where the system does not tell."""
    with readable():
        return path.is_dir()


def _by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """The files by their names without extension. Raises UserError on two files with one name."""
    stems: dict[str, Path] = {}
    for path in paths:
        other = stems.setdefault(path.stem, path)
        if other != path:
            raise UserError(f"two files with one name: {other} and {path}; rename or remove one of them")
    return stems


def pair_masks(images: Iterable[Path], masks: Iterable[Path]) -> dict[Path, Path]:
    """Image -> its mask, which is named like it, with or without `_mask` at the end. Images may lack a mask.

    Raises UserError on a mask without an image, on an image as its own mask, and on two masks or two images with one
    name.
    """
    named = _by_stem(images)
    pairs: dict[Path, Path] = {}
    for mask in masks:
        image = named.get(mask.stem) or named.get(mask.stem.removesuffix("_mask"))
        if image is None:
            raise UserError(f"mask without an image: {mask} belongs to no image named {mask.stem} or without `_mask`")
        if image == mask:
            raise UserError(f"{mask} is an image, and cannot be its own mask: give another folder of masks")
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
