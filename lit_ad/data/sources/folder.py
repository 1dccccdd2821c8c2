"""A user's own folders: nominal images, and if there are any, anomalous images and masks."""

import random
from pathlib import Path

from lit_ad.batch import Sample
from lit_ad.data.sources.source import Source, holds_images, list_folders, list_images, pair_masks
from lit_ad.errors import UserError

Folders = str | list[str]


class Folder(Source):
    """Your own folders: one of nominal images is enough to train; anomalous images are for the test only.

    Without `nominal_test`, a fifth of the nominal images is kept from training for the test (always the same ones), if
    there are anomalous images to test with. Folders are relative to `root`, unless absolute.

    Args:
        nominal: Folder, or folders, of nominal images.
        anomalous: Folder, or folders, of anomalous images; a folder's name is the defect type. If it holds only
            folders, each of them is a defect type.
        masks: Masks of the anomalous images, named like them, with or without `_mask`: one folder for each in
            `anomalous`, or one for all, which may hold a folder for each defect type.
        nominal_test: Folder, or folders, of nominal images for the test.
        root: Where the folders lie.
        test_fraction: Part of the nominal images kept for the test where there is no `nominal_test`.
        seed: Of that choice.
    """

    def __init__(
        self,
        nominal: Folders,
        anomalous: Folders | None = None,
        masks: Folders | None = None,
        nominal_test: Folders | None = None,
        root: Path = Path(),
        test_fraction: float = 0.2,
        seed: int = 0,
    ) -> None:
        self.root = Path(root).expanduser()
        self.nominal, self.anomalous = self._folders(nominal), self._folders(anomalous)
        self.masks, self.nominal_test = self._folders(masks), self._folders(nominal_test)
        self.test_fraction, self.seed = test_fraction, seed
        if not 0 <= test_fraction < 1:
            raise UserError(f"test_fraction is {test_fraction}, but it must lie in [0, 1)")
        if len(self.masks) not in (0, 1, len(self.anomalous)):
            raise UserError(f"{len(self.masks)} folders of masks for {len(self.anomalous)} of anomalous images")

    def samples(self) -> list[Sample]:
        category = self.root.absolute().name
        train = [image for folder in self.nominal for image in list_images(folder)]
        test = [image for folder in self.nominal_test for image in list_images(folder)]
        if self.anomalous and not self.nominal_test:
            test = sorted(random.Random(self.seed).sample(train, round(self.test_fraction * len(train))))
        kept = set(train) - set(test) if not self.nominal_test else train
        nominal = [Sample(image, 0, None, category) for image in train if image in kept]
        nominal += [Sample(image, 0, None, category, split="test") for image in test]
        return nominal + self._anomalous(category)

    def _anomalous(self, category: str) -> list[Sample]:
        images = [image for folder in self.anomalous for image in defect_images(folder)]
        own = len(self.masks) == len(self.anomalous)  # a folder of masks for each folder of images
        groups = zip(self.anomalous, self.masks, strict=True) if own else [(None, folder) for folder in self.masks]
        masks: dict[Path, Path] = {}
        for folder, truth in groups:
            inside = images if folder is None else [image for image in images if folder in image.parents]
            if holds_folders(truth):
                for defect in list_folders(truth):
                    of_defect = [image for image in inside if image.parent.name == defect.name]
                    masks |= pair_masks(of_defect, list_images(defect))
            else:
                masks |= pair_masks(inside, list_images(truth))
        return [Sample(image, 1, masks.get(image), category, image.parent.name, "test") for image in images]

    def _folders(self, names: Folders | None) -> list[Path]:
        return [self.root / Path(name).expanduser() for name in ([names] if isinstance(names, str) else names or [])]


def defect_images(folder: Path) -> list[Path]:
    """The images in a folder, or in the folders inside it if it holds nothing else."""
    if holds_folders(folder):
        return [image for inner in list_folders(folder) for image in list_images(inner)]
    return list_images(folder)


def holds_folders(folder: Path) -> bool:
    """Whether there are folders in it, and no images."""
    return bool(list_folders(folder)) and not holds_images(folder)
