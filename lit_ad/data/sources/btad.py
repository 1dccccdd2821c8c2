"""BTAD, the beanTech Anomaly Detection data set: PRODUCT/train/ok, PRODUCT/test/{ok,ko}, PRODUCT/ground_truth/ko."""

from pathlib import Path
from typing import Any

from lit_ad.batch import Sample
from lit_ad.data.sources.source import (
    Source,
    find_root,
    holds_images,
    list_folders,
    list_images,
    pair_masks,
    select_categories,
)
from lit_ad.errors import UserError
from lit_ad.files import resolve_path


class BTAD(Source):
    """BTAD's three products (Mishra et al., https://arxiv.org/abs/2104.10036).

    Images and masks are PNG and BMP, mixed even within a product: a mask belongs to the image with its name, whatever
    the suffix is. Pixels of a mask that are not black mark a defect.

    Args:
        root: The folder of the products 01, 02 and 03, or the folder around it, BTech_Dataset_transformed.
        category: The products to take, in quotes, because YAML turns 01 into a number: ["01", "03"]. None: all.
    """

    def __init__(self, root: Path, category: str | list[str] | None = None) -> None:
        self.root, self.category = resolve_path(root), category

    def samples(self) -> list[Sample]:
        listed = [sample for folder in self._select_products() for sample in _list_samples(folder)]
        return sorted(listed, key=lambda sample: sample.split, reverse=True)  # train, test; stable within each

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Return one task for each product."""
        return {folder.name: {"category": folder.name} for folder in self._select_products()}

    def _select_products(self) -> list[Path]:
        root = find_root(self.root, lambda folder: bool(_find_products(folder)))
        folders = _find_products(root)
        if not folders:
            raise UserError(f"no product in {self.root}: expected folders 01, 02 and 03 that hold train/ok")
        return [folders[name] for name in select_categories(self.category, folders, root)]


def _find_products(folder: Path) -> dict[str, Path]:
    """Return the folders of products in a folder, by name."""
    return {inner.name: inner for inner in list_folders(folder) if (inner / "train" / "ok").is_dir()}


def _list_samples(root: Path) -> list[Sample]:
    """List the samples of one product. Images in a folder "ok" get the defect "good", as in other data sets."""
    listed = [Sample(image, 0, None, root.name) for image in list_images(root / "train" / "ok")]
    anomalous, truth = list_images(root / "test" / "ko"), root / "ground_truth" / "ko"
    masks = pair_masks(anomalous, list_images(truth)) if holds_images(truth) else {}
    listed += [Sample(x, 1, masks.get(x), root.name, "ko", "test", mask_above=0) for x in anomalous]
    return listed + [Sample(x, 0, None, root.name, split="test") for x in list_images(root / "test" / "ok")]
