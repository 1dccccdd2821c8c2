"""KolektorSDD (kosNN/PartM.jpg, PartM_label.bmp) and KolektorSDD2 ({train,test}/NNNNN.png, NNNNN_GT.png).

Every image has a mask. An image is defective if any pixel of its mask is above 0, so that listing the samples reads all
masks.
"""

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lit_ad.batch import Sample, SplitName
from lit_ad.data.masks import read_mask
from lit_ad.data.sources.source import Source, find_root, list_folders, list_images, require_file
from lit_ad.errors import UserError
from lit_ad.files import resolve_path
from lit_ad.threads import Pool

FOLDS = 3  # as in the paper


class KolektorSDD(Source):
    """Electrical commutators (Tabernik et al., https://arxiv.org/abs/1903.08572), eight surfaces of each of 50 items.

    A third of the items is the test; training takes the nominal images of the others. All images of an item are on the
    same side of each split.

    Args:
        root: The folder of kos01, kos02, ..., or the folder around it.
        fold: The third that is the test: 0, 1 or 2.
        splits: The authors' split.pyb, in KolektorSDD-training-splits.zip, for their folds. No code in it is run. None:
            our own folds, every third item.
    """

    def __init__(self, root: Path, fold: int = 0, splits: Path | None = None) -> None:
        self.root, self.fold = resolve_path(root), fold
        self.splits = None if splits is None else resolve_path(splits)
        if fold not in range(FOLDS):
            raise UserError(f"fold is {fold}, but it must be 0, 1 or 2")

    def samples(self) -> list[Sample]:
        root = find_root(self.root, lambda folder: bool(_list_items(folder)))
        if not _list_items(root):
            raise UserError(
                f"no item in {self.root}: expected folders kos01, kos02, ... of PartM.jpg and PartM_label.bmp"
            )
        there = [folder.name for folder in _list_items(root)]
        test = there[self.fold :: FOLDS] if self.splits is None else _select_test_items(self.splits, self.fold, there)
        listed: list[Sample] = []
        for folder in _list_items(root):
            split: SplitName = "test" if folder.name in test else "train"
            listed += _list_masked(list_images(folder), "_label", split, "kolektor_sdd", folder.name)
        return _drop_anomalous_training(listed)

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Return one task for each fold."""
        return {f"fold_{fold}": {"fold": fold} for fold in range(FOLDS)}


class KolektorSDD2(Source):
    """Surfaces of production items (Bozic et al., https://arxiv.org/abs/2104.06064), with the data set's own training
    and test. Only the nominal training images are used.

    Args:
        root: The folder that holds train and test.
    """

    def __init__(self, root: Path) -> None:
        self.root = resolve_path(root)

    def samples(self) -> list[Sample]:
        splits: tuple[SplitName, ...] = ("train", "test")
        listed: list[Sample] = []
        for split in splits:
            images = [image for image in list_images(self.root / split) if not image.stem.endswith("(copy)")]
            listed += _list_masked(images, "_GT", split, "kolektor_sdd2")
        return _drop_anomalous_training(listed)

    def remarks(self) -> list[str]:
        """Return a sentence about copies that are left out: the published archive has an image and its mask twice."""
        copies = [path for path in list_images(self.root / "train") if path.stem.endswith("(copy)")]
        return [f"copies are left out: {', '.join(map(str, copies))}"] if copies else []


class _PlainUnpickler(pickle.Unpickler):
    """Reads a pickle of lists, texts and numbers. It refuses classes and functions, which could run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise UserError(f"it needs {module}.{name}, but lists of names need no code")


def read_folds(path: Path) -> list[tuple[list[str], list[str]]]:
    """Read the names of the items to train and to test on, for each fold, from a file of the authors.

    The file is a pickle of (train, test, all) or (train, test). `train` and `test` have a list for each fold, of
    names or of (name, whether its masks may be used). No code in the file is run.

    Raises:
        UserError: The file has another content.
    """
    require_file(path, "no splits")
    try:
        with path.open("rb") as file:
            train, test, *_ = _PlainUnpickler(file).load()
        folds = [(_read_names(trained), _read_names(tested)) for trained, tested in zip(train, test, strict=True)]
        if len(folds) != FOLDS or not all(isinstance(name, str) for fold in folds for rows in fold for name in rows):
            raise ValueError(f"expected {FOLDS} lists of names to train on, and as many to test on")
    except Exception as error:  # a wrong pickle raises many different errors
        raise UserError(
            f"{path} is not the authors' split.pyb of KolektorSDD: {error}; take it from "
            "KolektorSDD-training-splits.zip, or leave `splits` out"
        ) from error
    return folds


def _read_names(rows: Iterable[Any]) -> list[str]:
    """Return the names in rows that are names or begin with one."""
    return [row if isinstance(row, str) else row[0] for row in rows]


def _select_test_items(path: Path, fold: int, there: list[str]) -> set[str]:
    """Return the items to test on in a file's fold. Raises UserError if the file lists other items than exist."""
    train, test = map(set, read_folds(path)[fold])
    both, missing, unknown = train & test, set(there) - train - test, (train | test) - set(there)
    for wrong, what in ((both, "in training and in test"), (missing, "in neither"), (unknown, "which is not there")):
        if wrong:
            raise UserError(f"fold {fold} of {path} has {min(wrong)} {what}")
    return test


def _list_items(folder: Path) -> list[Path]:
    """Return the folders of items in a folder."""
    return [inner for inner in list_folders(folder) if inner.name.startswith("kos") and inner.name[3:].isdigit()]


def _list_masked(files: Iterable[Path], ending: str, split: SplitName, category: str, item: str = "") -> list[Sample]:
    """List the images among files; the mask of each has its name with an `ending`.

    Raises:
        UserError: An image has no mask, or a mask has no image.
    """
    masks = {path.stem.removesuffix(ending): path for path in files if path.stem.endswith(ending)}
    images = {path.stem: path for path in files if not path.stem.endswith(ending)}
    for stem in sorted(masks.keys() ^ images.keys()):
        if stem in images:
            raise UserError(f"image without a mask: {images[stem]} has no {stem}{ending} beside it, so it has no label")
        raise UserError(f"mask without an image: {masks[stem]} belongs to no image named {stem}")
    with Pool() as pool:
        anomalous = list(pool.map(lambda stem: bool(read_mask(masks[stem], 0).any()), images))
    return [
        Sample(image, int(bad), masks[stem] if bad else None, category, "defect" if bad else "good", split, "", item, 0)
        for (stem, image), bad in zip(images.items(), anomalous, strict=True)
    ]


def _drop_anomalous_training(listed: list[Sample]) -> list[Sample]:
    """Return the nominal training images, then all test images."""
    train = [sample for sample in listed if sample.split == "train" and sample.label == 0]
    return train + [sample for sample in listed if sample.split == "test"]
