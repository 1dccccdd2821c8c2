"""Guess from a folder's content which source reads it."""

from pathlib import Path

from lit_ad.batch import Sample
from lit_ad.counts import format_count
from lit_ad.data.sources.folder import Folder
from lit_ad.data.sources.images import Images
from lit_ad.data.sources.listing import Listing, list_tree
from lit_ad.data.sources.mvtec import MVTec
from lit_ad.data.sources.one_class import OneClass
from lit_ad.data.sources.source import Source, holds_images, list_folders
from lit_ad.errors import UserError
from lit_ad.files import resolve_path


class _NominalImages(Source):
    """All images below a folder, as nominal training images."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def samples(self) -> list[Sample]:
        return [s._replace(label=0, defect="good", category="", split="train") for s in Images(self.root).samples()]

    def remarks(self) -> list[str]:
        """Return a sentence about links that are not followed. The inspection reports other skipped files."""
        return Listing(repeated=list_tree(self.root).repeated).remarks()


def guess_source(path: Path) -> tuple[Source, str]:
    """Return the source that reads a folder, and a sentence that tells the user what was assumed.

    Raises:
        UserError: The folder does not exist, or has no image.
    """
    path = resolve_path(path)
    if not path.is_dir():
        raise UserError(f"{path} is not a folder: give a folder of images, or --config FILE")
    if (path / "train" / "good").is_dir():
        return MVTec(path), f"{path}: MVTec AD's layout, one category"
    categories = [folder for folder in list_folders(path) if (folder / "train" / "good").is_dir()]
    if categories:
        return MVTec(path), f"{path}: MVTec AD's layout, {format_count(len(categories), 'category', 'categories')}"
    classes = [folder.name for folder in list_folders(path / "train") if holds_images(folder)]
    if classes:
        about = f"{path}: folders of {format_count(len(classes), 'class', 'classes')}, all taken as nominal"
        return OneClass(path, normal=classes), about
    if holds_images(path) and not list_folders(path):
        return Folder(".", root=path), f"{path}: a folder of images, all taken as nominal"
    Images(path).samples()  # raises UserError if there is none
    below = ", ".join(folder.name for folder in list_folders(path)[:4])
    about = f"{path}: folders of images at any depth, all taken as nominal"
    if below:
        about += (
            f". If some of {below} are defects, give the source as to fit: --data.source Folder --data.source.root "
            f"{path} --data.source.nominal NAME --data.source.anomalous '[NAME]'"
        )
    return _NominalImages(path), about
