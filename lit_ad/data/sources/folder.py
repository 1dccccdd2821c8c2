"""A user's own folders of nominal images, and optionally of anomalous images and masks."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from lit_ad.batch import Sample
from lit_ad.counts import first_few
from lit_ad.data.sources.labelme import draw_labelme, draw_mask_beside
from lit_ad.data.sources.listing import list_folder
from lit_ad.data.sources.mask_folders import OF_IMAGES, count_most_colours, find_masks_among, holds_masks
from lit_ad.data.sources.source import Source, holds_images, list_folders, list_images, pair_masks
from lit_ad.errors import UserError
from lit_ad.files import resolve_path

Folders = str | list[str]


class Folder(Source):
    """Your own folders. One folder of nominal images is enough to train; anomalous images are for the test only.

    Folders are relative to `root`, or absolute. If there are anomalous images but no `nominal_test`, a fifth of the
    nominal images is kept for the test, always the same ones.

    Args:
        nominal: Folder or folders of nominal images.
        anomalous: Folder or folders of anomalous images. The defect type is the part of a folder's path that differs
            from the other folders' paths: dent and scratch for dent/images and scratch/images. If a folder holds only
            folders, each of them is a defect type, except folders of masks.
        masks: Folder or folders of the anomalous images' masks, or of labelme's JSON files: one folder for each
            folder in `anomalous`, or one for all, which may hold a folder for each defect type. A mask has the name
            of its image, with or without `_mask`. None: masks NAME_mask, or labelme's NAME.json, beside the images.
        nominal_test: Folder or folders of nominal images for the test.
        root: Folder that the other folders are relative to.
        test_fraction: Fraction of the nominal images that is kept for the test if there is no `nominal_test`.
        seed: Seed that draws these images.
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
        self.root = resolve_path(root)
        self.nominal, self.anomalous = self._resolve_folders(nominal), self._resolve_folders(anomalous)
        self.masks, self.nominal_test = self._resolve_folders(masks), self._resolve_folders(nominal_test)
        self.test_fraction, self.seed = test_fraction, seed
        if not 0 <= test_fraction < 1:
            raise UserError(f"test_fraction is {test_fraction}, but it must lie in [0, 1)")
        if len(self.masks) not in (0, 1, len(self.anomalous)):
            raise UserError(
                f"there are {len(self.masks)} folders of masks for {len(self.anomalous)} folders of anomalous images: "
                "give one for each, or one for all"
            )

    def samples(self) -> list[Sample]:
        category = self.root.absolute().name
        train = [image for folder in self.nominal for image in _list_photographs(folder)]
        test = [image for folder in self.nominal_test for image in _list_photographs(folder)]
        if self.anomalous and not self.nominal_test:
            test = sorted(random.Random(self.seed).sample(train, round(self.test_fraction * len(train))))
        kept = set(train) - set(test) if not self.nominal_test else train
        nominal = [Sample(image, 0, None, category) for image in train if image in kept]
        nominal += [Sample(image, 0, None, category, split="test") for image in test]
        return nominal + self._list_anomalous(category)

    def remarks(self) -> list[str]:
        """Return sentences about folders that are not read, and about masks that lie among images."""
        folders, masks = self._find_defect_folders()
        of_images = list(dict.fromkeys([*self.nominal, *self.nominal_test, *folders]))
        inside = [inner for folder in of_images for inner in list_folders(folder)]
        read = (*of_images, *self.masks)
        sentences = {
            "folders of masks, which are left out of the anomalous images; give them as `masks`": masks,
            "folders inside folders of images, which are not read": inside,
            "masks among images, by their names, which are no images": [
                mask for folder in of_images for mask in find_masks_among(list_images(folder)).values()
            ],
        }
        unread = {what: [path for path in paths if path not in read] for what, paths in sentences.items()}
        return [f"{what}, {len(paths)}: {first_few(paths)}" for what, paths in unread.items() if paths]

    def _list_anomalous(self, category: str) -> list[Sample]:
        folders, _ = self._find_defect_folders()
        defects = name_defects(folders, self.root)
        good = [folder for folder, defect in defects.items() if defect == "good"]
        if good:
            raise UserError(f"{good[0]} is in `anomalous`, but called good: leave it out, or rename it")
        images = {image: defects[folder] for folder in folders for image in _list_photographs(folder)}
        if self.masks:
            masks = self._find_masks(images)
        else:
            masks = {image: mask for folder in folders for image, mask in _find_masks_beside(folder).items()}
        return [Sample(image, 1, masks.get(image), category, defect, "test") for image, defect in images.items()]

    def _find_masks(self, images: Mapping[Path, str]) -> dict[Path, Path]:
        """Return the mask of each image in the folders of masks. `images`: the defect type of each image."""
        paired = len(self.masks) == len(self.anomalous)  # each folder of images has its folder of masks
        groups = zip(self.anomalous if paired else [None], self.masks, strict=True)
        pairs: dict[Path, Path] = {}
        for folder, truth in groups:
            inside = [image for image in images if folder is None or folder in image.parents]
            if truth in {image.parent for image in inside}:
                pairs |= _find_masks_beside(truth)
            elif _holds_folders(truth):
                for inner in list_folders(truth):
                    with_defect = [image for image in inside if inner.name in (images[image], image.parent.name)]
                    pairs |= _pair_truth(with_defect, inner)
            else:
                pairs |= _pair_truth(inside, truth)
        return pairs

    def _find_defect_folders(self) -> tuple[list[Path], list[Path]]:
        """Return the folders of anomalous images, and the folders of masks beside them, which are left out.

        Raises:
            UserError: `anomalous` names a folder of masks, or it is not clear which folder holds the images.
        """
        photographs = bool(self.anomalous and self.nominal) and count_most_colours(self.nominal[0]) > 2
        folders: list[Path] = []
        masks: list[Path] = []
        for given in self.anomalous:
            inner = list_folders(given) if _holds_folders(given) else []
            groups = [list_folders(folder) if _holds_folders(folder) else [folder] for folder in inner] or [[given]]
            candidates = [folder for group in groups for folder in group]
            beside = candidates if inner else self.anomalous
            mask_folders = [folder for folder in candidates if holds_masks(folder, beside, photographs)]
            if len(mask_folders) == len(candidates):
                raise UserError(f"{given} holds masks: take it out of `anomalous`, and give it as `masks`")
            for group in groups:
                image_folders = [folder for folder in group if folder not in mask_folders]
                if len(group) > 1:  # two levels deeper: exactly one folder must hold the images
                    image_folders = [folder for folder in image_folders if holds_images(folder)]
                    if len(image_folders) != 1:
                        list_images(group[0].parent)  # raises UserError, because no image lies directly in it
                folders += image_folders
            masks += mask_folders
        return folders, masks

    def _resolve_folders(self, names: Folders | None) -> list[Path]:
        return [resolve_path(name, self.root) for name in ([names] if isinstance(names, str) else names or [])]


def name_defects(folders: Sequence[Path], root: Path) -> dict[Path, str]:
    """Return the defect type of each folder: the last part of its path that differs from the other folders', with the
    parts before it if they are needed.

    The end of a path is not the defect type if it is a word such as `images`, or if all paths end in it.
    """
    parts: dict[Path, tuple[str, ...]] = {}
    for folder in folders:
        names = folder.relative_to(root).parts if folder.is_relative_to(root) else folder.absolute().parts
        while len(names) > 1 and names[-1].lower() in OF_IMAGES:
            names = names[:-1]
        parts[folder] = names or (folder.absolute().name,)
    while len(set(parts.values())) > 1 and len({names[-1:] for names in parts.values()}) == 1:
        parts = {folder: names[:-1] for folder, names in parts.items()}
    defects = {}
    for folder, names in parts.items():
        depth = 1
        while depth < len(names) and sum(other[-depth:] == names[-depth:] for other in set(parts.values())) > 1:
            depth += 1
        defects[folder] = "-".join(names[-depth:])
    return defects


def _list_photographs(folder: Path) -> list[Path]:
    """Return the images in a folder, without the masks among them."""
    images = list_images(folder)
    masks = set(find_masks_among(images).values())
    return [image for image in images if image not in masks]


def _find_masks_beside(folder: Path) -> dict[Path, Path]:
    """Return the mask of each image in the same folder: NAME_mask, or labelme's NAME.json. Raises UserError if an image
    has both."""
    pairs = find_masks_among(list_images(folder))
    for image in _list_photographs(folder):
        drawn = draw_mask_beside(image)
        if drawn is not None:
            if image in pairs:
                raise UserError(f"two masks for {image}: {pairs[image]} and {image.with_suffix('.json')}; remove one")
            pairs[image] = drawn
    return pairs


def _pair_truth(images: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Return the mask of each image in a folder of masks. Labelme files are drawn."""
    stems = {image.stem for image in images}
    other = list_folder(folder).other if folder.is_dir() else []
    shapes = [path for path in other if path.suffix.lower() == ".json" and path.stem in stems]
    files = [] if shapes and not holds_images(folder) else list_images(folder)
    pairs = pair_masks(images, files + shapes)
    return {image: draw_labelme(mask, image) if mask in shapes else mask for image, mask in pairs.items()}


def _holds_folders(folder: Path) -> bool:
    """Return whether a folder holds folders and no images."""
    return bool(list_folders(folder)) and not holds_images(folder)
