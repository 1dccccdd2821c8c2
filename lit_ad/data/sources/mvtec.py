"""Data in the layout of MVTec AD: CATEGORY/train/good, CATEGORY/test/DEFECT, CATEGORY/ground_truth/DEFECT."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lit_ad.batch import Sample, SplitName
from lit_ad.data.sources.mask_folders import find_masks_among, holds_masks
from lit_ad.data.sources.shift_record import read_shift
from lit_ad.data.sources.source import Source, holds_images, list_folders, list_images, pair_masks, select_categories
from lit_ad.errors import UserError
from lit_ad.files import resolve_path

_OTHER_NAMES = ("gt", "mask", "masks", "label", "labels", "truth")  # names that people give to ground_truth


class MVTec(Source):
    """Images in the layout of MVTec AD, in any of the usual file formats.

    The folders `test` and `ground_truth`, and any mask, may be missing. The mask of the image X is
    `ground_truth/DEFECT/X_mask.png` or `X.png`.

    Args:
        root: One category (the folder that holds train/good), or a folder of categories.
        category: The categories to take from a folder of categories. None: all.
    """

    def __init__(self, root: Path, category: str | list[str] | None = None) -> None:
        self.root = resolve_path(root)
        self.category = [category] if isinstance(category, str) else category

    def samples(self) -> list[Sample]:
        listed = [sample for folder in self._find_categories() for sample in _list_category(folder)]
        return sorted(listed, key=lambda sample: sample.split, reverse=True)  # train, test; stable within each

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Return one task for each category."""
        folders = self._find_categories()
        if folders == [self.root]:
            return {self.root.absolute().name: {}}
        return {folder.name: {"category": folder.name} for folder in folders}

    def shift(self) -> dict[str, Any] | None:
        """Return the content of the folder's shift.json. Raises UserError if it is not from `lit-ad data shift`."""
        return read_shift(self.root)

    def remarks(self) -> list[str]:
        """Return sentences about folders whose names are similar to a missing `test` or `ground_truth`."""
        lines = []
        for root in self._find_categories():
            try:
                names = {folder.name for folder in list_folders(root)}
            except UserError:  # a folder that may be entered but not listed is enough
                continue
            for absent in sorted({"test", "ground_truth"} - names):
                others = {name.lower().replace("-", "_"): name for name in names - {"train", "test", "ground_truth"}}
                near = get_close_matches(absent, others, n=1, cutoff=0.7)
                near += [name for name in others if absent == "ground_truth" and name in _OTHER_NAMES]
                if near:
                    lines.append(f"{root / others[near[0]]} is not read: it should be called {absent}")
        return lines

    def _find_categories(self) -> list[Path]:
        if (self.root / "train" / "good").is_dir():
            here = self.root.absolute()
            if self.category not in (None, [here.name]):
                raise UserError(f"{self.root} is itself one category, so it has no category {self.category}")
            return [self.root]
        folders = {folder.name: folder for folder in list_folders(self.root) if (folder / "train" / "good").is_dir()}
        if not folders:
            raise UserError(
                f"no nominal image in {self.root}: expected train/good in it (one category), or folders that hold "
                "train/good (categories)"
            )
        return [folders[name] for name in select_categories(self.category, folders, self.root)]


def _list_category(root: Path) -> list[Sample]:
    """List the samples of one category. In train as in test, images in other folders than good are anomalous."""
    category = root.absolute().name
    defects = {folder.name for folder in list_folders(root / "test")}
    for folder in list_folders(root / "ground_truth"):
        if folder.name not in defects and holds_images(folder):
            near = get_close_matches(folder.name, defects, n=1) or ["DEFECT"]
            raise UserError(
                f"masks without images: there is no folder test/{folder.name} for {folder}; a folder of masks needs "
                f"the name of its folder of images, such as ground_truth/{near[0]} for test/{near[0]}"
            )
    splits: tuple[SplitName, ...] = ("train", "test")
    listed = []
    for split in splits:
        for folder in list_folders(root / split):
            defect, truth = folder.name, root / "ground_truth" / folder.name
            images = list_images(folder)
            if holds_masks(folder, list_folders(root / split), photographs=False):
                raise UserError(
                    f"{folder} has the name of a folder of masks: masks belong in {root / 'ground_truth'}/DEFECT"
                )
            for image, mask in find_masks_among(images).items():
                raise UserError(f"{mask} has the name of a mask of {image.name}: masks belong in {truth}")
            label = int(defect != "good")
            masked = split == "test" and (truth.is_dir() if label else holds_images(truth))  # good images need none
            masks = pair_masks(images, list_images(truth)) if masked else {}
            listed += [Sample(image, label, masks.get(image), category, defect, split) for image in images]
    return listed
