"""The base class of sources, which list a data set's samples; and functions that all sources use."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from lit_ad.batch import Sample
from lit_ad.data.sources.listing import list_folder, list_tree, os_errors_as_user_errors
from lit_ad.errors import UserError
from lit_ad.evaluation.protocols import Rules
from lit_ad.image.pixels import EXTENSIONS, split_page


class Source(ABC):
    """Lists the samples of a data set. A new data set is one subclass."""

    def prepare(self) -> None:  # noqa: B027  # most sources have nothing to do
        """Download or make the files. One process on each machine runs this, before the first `samples`."""

    @abstractmethod
    def samples(self) -> list[Sample]:
        """Return the samples of all splits, sorted within each split.

        A TIFF of several pages is one sample here; `pages.split_pages` makes a sample for each page. Nominal images
        that the data set itself holds out of training have the split "validation".

        Raises:
            UserError: The files do not fit the layout.
        """

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Return the tasks of a benchmark on this data set: their names, and the arguments of this class that select
        them. By default there is one task, all samples. A data set whose parts need separate models has one task for
        each."""
        return {"all": {}}

    def rules(self) -> Rules | None:
        """Return the data set's own scoring rules, which a test applies beside its usual metrics; None without any."""
        return None

    def shift(self) -> dict[str, Any] | None:
        """Return how `lit-ad data shift` changed the test images: kind, strength and seed; None if it did not."""
        return None

    def remarks(self) -> list[str]:
        """Return a sentence for each thing that `samples` skips and that may be a mistake, such as a misspelled folder.

        This is called once, before training.

        Raises:
            UserError: A file would end every test with an error.
        """
        return []


def check_root(source: Source | type[Source], root: object) -> None:
    """Raise UserError if a data set's folder does not exist, and the source does not make it."""
    kind = source if isinstance(source, type) else type(source)
    if isinstance(root, Path | str) and kind.prepare is Source.prepare and not Path(root).is_dir():
        what = f"{root} is a file" if Path(root).exists() else f"there is no folder {root}"
        raise UserError(f"{what}: data.source.root is the folder that holds the images of the data set")


def find_root(root: Path, fits: Callable[[Path], bool]) -> Path:
    """Return `root` or the first folder inside it for which `fits` is true; without any, `root`. Archives often have
    one folder around the data set."""
    return next((folder for folder in (root, *list_folders(root)) if fits(folder)), root)


def select_categories(category: str | list[str] | None, known: Iterable[str], root: Path) -> list[str]:
    """Return the wanted categories; None: all known ones. Raises UserError if one does not exist. `root`: where they
    are, for the message."""
    wanted, known = [category] if isinstance(category, str) else category, list(known)
    absent = [name for name in wanted or [] if name not in known]
    if absent:
        names = ", ".join(name or "'' (images without a category)" for name in known)
        raise UserError(f"no category {', '.join(absent)} in {root}: there are {names}")
    return known if wanted is None else wanted


def require_file(path: Path, where: str) -> Path:
    """Return the path of a file, or of a page of one. Raises UserError if it does not exist. `where`: the place that
    names the file, such as a row of a table, for the message."""
    file, _ = split_page(path)
    with os_errors_as_user_errors():
        if not file.is_file():
            raise UserError(f"{where}: there is no file {file}")
    return path


def list_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without hidden ones: none if the folder does not exist."""
    return list_folder(folder).folders if _is_folder(folder) else []


def holds_images(folder: Path) -> bool:
    """Return whether images lie directly in a folder. False if the folder does not exist."""
    return _is_folder(folder) and bool(list_folder(folder).images)


def list_images(folder: Path) -> list[Path]:
    """Return the images that lie directly in a folder, sorted.

    Raises:
        UserError: The folder does not exist, cannot be read, has no image, or has two images whose names differ only in
            their extension.
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
    _map_stems(listing.images)
    return listing.images


def _is_folder(path: Path) -> bool:
    """Return whether a folder exists. Raises UserError if the system does not allow to find out."""
    with os_errors_as_user_errors():
        return path.is_dir()


def _map_stems(paths: Iterable[Path]) -> dict[str, Path]:
    """Return files by their names without extension. Raises UserError if two files have the same name."""
    stems: dict[str, Path] = {}
    for path in paths:
        other = stems.setdefault(path.stem, path)
        if other != path:
            raise UserError(f"two files with one name: {other} and {path}; rename or remove one of them")
    return stems


def pair_masks(images: Iterable[Path], masks: Iterable[Path]) -> dict[Path, Path]:
    """Return the mask of each image: a mask has the name of its image, or NAME_mask. Images need no mask.

    Raises:
        UserError: A mask has no image, a mask is an image itself, or two masks or two images have the same name.
    """
    named = _map_stems(images)
    pairs: dict[Path, Path] = {}
    for mask in masks:
        image = named.get(mask.stem) or named.get(mask.stem.removesuffix("_mask"))
        if image is None:
            raise UserError(f"mask without an image: {mask} belongs to no image named {mask.stem} or without `_mask`")
        if image == mask:
            raise UserError(f"{mask} is an image, and cannot be its own mask: give a folder of masks")
        if image in pairs:
            raise UserError(f"two masks for {image}: {pairs[image]} and {mask}; remove one of them")
        pairs[image] = mask
    return pairs


def check_samples(samples: Sequence[Sample]) -> None:
    """Raise UserError if samples contradict each other: an anomalous image in training or validation, an image that is
    listed twice, or an item with images in several splits."""
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
