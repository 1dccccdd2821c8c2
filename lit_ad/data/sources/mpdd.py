"""MPDD, metal parts with defects, in MVTec AD's layout, often with one more folder around it."""

from pathlib import Path

from lit_ad.data.sources.mvtec import MVTec
from lit_ad.data.sources.source import find_root, list_folders


class MPDD(MVTec):
    """MPDD's six categories (Jezek et al., https://doi.org/10.1109/ICUMT54235.2021.9631567), in MVTec AD's layout.
    Pixels of a mask that are not black mark a defect.

    Args:
        root: The folder of categories, or the folder around it (MPDD/MPDD), or one category.
        category: The categories to take. None: all.
    """

    def _find_categories(self) -> list[Path]:
        return MVTec(find_root(self.root, _holds_categories), self.category)._find_categories()


def _holds_categories(folder: Path) -> bool:
    """Return whether a folder is a category, or holds categories."""
    return any((inner / "train" / "good").is_dir() for inner in (folder, *list_folders(folder)))
