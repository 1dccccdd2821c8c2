"""VisA, as published (OBJECT/Data, split_csv) or converted by its authors' script (SPLIT/OBJECT in MVTec's layout)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from lit_ad.batch import Sample, SplitName
from lit_ad.data.sources.source import (
    Source,
    find_root,
    list_folders,
    list_images,
    pair_masks,
    require_file,
    select_categories,
)
from lit_ad.data.sources.table_file import read_cell, read_table
from lit_ad.errors import UserError
from lit_ad.files import resolve_path
from lit_ad.names import file_name

COLUMNS = ("object", "split", "label", "image", "mask")
Official = Literal["1cls", "2cls_highshot", "2cls_fewshot"]
LABELS = {"normal": 0, "anomaly": 1}


class VisA(Source):
    """VisA's twelve objects (Zou et al., https://arxiv.org/abs/2207.14315).

    Masks have ids of defect classes: every value but 0 marks a defect. Anomalous training images of the two-class
    splits are left out.

    Args:
        root: The folder that holds split_csv; or of the converted data, the folder that holds 1cls, or 1cls itself.
        category: The objects to take. None: all.
        split: The official split: 1cls, or one with other or fewer nominal training images.
    """

    def __init__(
        self,
        root: Path,
        category: str | list[str] | None = None,
        split: Official = "1cls",
    ) -> None:
        self.root, self.category, self.split = resolve_path(root), category, split

    def samples(self) -> list[Sample]:
        return [sample for sample in self._list_all() if sample.split == "test" or sample.label == 0]

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Return one task for each object."""
        return {name: {"category": name} for name in dict.fromkeys(sample.category for sample in self._list_all())}

    def remarks(self) -> list[str]:
        """Return a sentence about the training images that are left out."""
        left = sum(sample.split == "train" and sample.label == 1 for sample in self._list_all())
        return [f"anomalous training images of {self.split} are left out: {left}"] if left else []

    def _list_all(self) -> list[Sample]:
        """Return all samples of the split, including anomalous training images: training first, in published order."""
        root = find_root(
            self.root, lambda folder: (folder / "split_csv").is_dir() or bool(_find_converted(folder, self.split))
        )
        objects = _find_converted(root, self.split)
        if objects:
            chosen = select_categories(self.category, objects, root)
            listed = [sample for name in chosen for sample in _list_converted(objects[name])]
        else:
            table = require_file(
                root / "split_csv" / f"{self.split}.csv", f"neither VisA nor its conversion in {self.root}"
            )
            rows = list(_list_rows(root, table))
            chosen = select_categories(self.category, dict.fromkeys(sample.category for sample in rows), table)
            listed = [sample for sample in rows if sample.category in chosen]
            for sample in listed:
                require_file(sample.image, str(table))
                require_file(sample.mask or sample.image, str(table))
        return sorted(listed, key=lambda sample: sample.split, reverse=True)


def _list_rows(root: Path, table: Path) -> Iterator[Sample]:
    """List the samples of a table. Raises UserError if a row does not fit; the message names it."""
    for where, row in read_table(table, COLUMNS, COLUMNS, ("image", "mask")):
        cells = {name: read_cell(row, name) for name in COLUMNS}
        if cells["split"] not in ("train", "test") or cells["label"] not in LABELS or not cells["image"]:
            raise UserError(
                f"{where} is {', '.join(map(str, row.values()))}: expected {', '.join(COLUMNS)}, with split train or "
                "test, and label normal or anomaly"
            )
        split: SplitName = "train" if cells["split"] == "train" else "test"
        label, mask = LABELS[cells["label"]], root / file_name(cells["mask"]) if cells["mask"] else None
        defect = "anomaly" if label else "good"
        yield Sample(root / file_name(cells["image"]), label, mask, cells["object"], defect, split, mask_above=0)


def _find_converted(root: Path, split: str) -> dict[str, Path]:
    """Return the folders of objects of converted data, by name; empty if there are none. They lie in ROOT/SPLIT, or in
    ROOT if it is called SPLIT. A ROOT whose name is no split counts as 1cls."""
    inside = root / split if (root / split).is_dir() else root
    if inside.absolute().name != split and (split != "1cls" or inside.absolute().name in get_args(Official)):
        return {}
    return {folder.name: folder for folder in list_folders(inside) if (folder / "train" / "good").is_dir()}


def _list_converted(folder: Path) -> list[Sample]:
    """List the samples of one object. Masks of the two-class splits lie in a folder for each split."""
    listed = [Sample(x, 0, None, folder.name) for x in list_images(folder / "train" / "good")]
    if (folder / "train" / "bad").is_dir():
        listed += [Sample(x, 1, None, folder.name, "bad") for x in list_images(folder / "train" / "bad")]
    truth = folder / "ground_truth" / "test" / "bad"
    bad = list_images(folder / "test" / "bad")
    masks = pair_masks(bad, list_images(truth if truth.is_dir() else folder / "ground_truth" / "bad"))
    listed += [Sample(x, 1, masks.get(x), folder.name, "bad", "test", mask_above=0) for x in bad]
    return listed + [Sample(x, 0, None, folder.name, split="test") for x in list_images(folder / "test" / "good")]
