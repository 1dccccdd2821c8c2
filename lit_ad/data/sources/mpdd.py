"""MPDD, metal parts with defects: MVTec AD's layout, often a folder deeper."""

from pathlib import Path

from lit_ad.data.sources.mvtec import MVTec
from lit_ad.data.sources.source import find_root, list_folders


class MPDD(MVTec):
    """MPDD's six categories (Jezek et al., https://doi.org/10.1109/ICUMT54235.2021.9631567), in MVTec AD's layout. What
    is not black in a mask counts.

    Args:
        root: The folder of categories, or the one that holds it (MPDD/MPDD), or one category.
        category: The categories to take; all of them if not given.
    """

    def _categories(self) -> list[Path]:
        return MVTec(find_root(self.root, _holds_categories), self.category)._categories()


def _holds_categories(folder: Path) -> bool:
    """Whether it is a category, or a folder of them."""
    return any((inner / "train" / "good").is_dir() for inner in (folder, *list_folders(folder)))
