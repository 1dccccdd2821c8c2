"""Real-IAD: five views of each part, listed in a JSON file for each category."""

import json
import re
from pathlib import Path
from typing import Any

from lit_ad.batch import Sample, SplitName
from lit_ad.data.sources.listing import list_folder
from lit_ad.data.sources.source import Source, list_folders, require_file, select_categories
from lit_ad.errors import UserError
from lit_ad.files import resolve_path
from lit_ad.names import file_name

_VIEW = re.compile(r"(.+)_C\d+(_.*)?")  # NAME_C1_TIME: views of one part share NAME


class RealIAD(Source):
    """Real-IAD (Wang et al., https://arxiv.org/abs/2403.12580), by its JSON splits.

    Labels come from the JSON files, because many images in folders of defects show a view without a defect. Values of a
    mask above 127 mark a defect. The views of a part have the same item; a test with several views of a part measures
    `sample_auroc`.

    Args:
        root: The folder that holds the folders of images and splits.
        category: The categories to take. None: all.
        images: The folder of images, by size: realiad_256, realiad_512, realiad_1024, or the folder of raw images.
        splits: The folder of JSON files, relative to root, such as realiad_jsons/realiad_jsons_sv (one view).
    """

    def __init__(
        self,
        root: Path,
        category: str | list[str] | None = None,
        images: str = "realiad_1024",
        splits: str = "realiad_jsons/realiad_jsons",
    ) -> None:
        self.root, self.category = resolve_path(root), category
        self.images, self.splits = resolve_path(images, self.root), resolve_path(splits, self.root)

    def samples(self) -> list[Sample]:
        if not self.images.is_dir():
            there = ", ".join(folder.name for folder in list_folders(self.root)) or "no folder"
            raise UserError(
                f"{self.images} is not a folder: set `images` to that of Real-IAD's images; there are {there}"
            )
        splits = self._find_splits()
        listed = [sample for name in splits for sample in _list_split(splits[name], self.images)]
        return sorted(listed, key=lambda sample: sample.split, reverse=True)  # train, test; stable within each

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Return one task for each category."""
        return {name: {"category": name} for name in self._find_splits()}

    def _find_splits(self) -> dict[str, Path]:
        """Return the JSON file of each wanted category."""
        files = list_folder(self.splits).other if self.splits.is_dir() else []
        files_by_name = {path.stem: path for path in files if path.suffix == ".json"}
        if not files_by_name:
            raise UserError(f"no CATEGORY.json in {self.splits}: set `splits` to the folder of Real-IAD's JSON files")
        return {name: files_by_name[name] for name in select_categories(self.category, files_by_name, self.splits)}


def _list_split(path: Path, images: Path) -> list[Sample]:
    """List the samples of one JSON file. Raises UserError if an entry does not fit; the message names it."""
    try:
        values = json.loads(require_file(path, "Real-IAD").read_text(encoding="utf-8"))
        nominal, prefix = values["meta"]["normal_class"], values["meta"].get("prefix", "")
        entries: list[tuple[SplitName, Any]] = [("train", values["train"]), ("test", values["test"])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no split of Real-IAD: {type(error).__name__} {error}") from error
    listed = []
    for split, rows in entries:
        for number, row in enumerate(rows):
            where = f"{path}, {split}[{number}]"
            try:
                defect, category, mask = row["anomaly_class"], row["category"], row.get("mask_path")
                image = images / prefix / file_name(row["image_path"])
            except (KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{where} is {row}: expected category, anomaly_class, image_path, mask_path") from error
            label, named = int(defect != nominal), _VIEW.fullmatch(image.stem)
            if named is None:
                raise UserError(f"{where}: the name {image.name} has no view, _C1 to _C5")
            if split == "train" and label:
                raise UserError(f"{where} is anomalous ({defect}): training takes nominal images, not the noisy splits")
            truth = require_file(images / prefix / file_name(mask), where) if label and mask else None
            kind = defect if label else "good"
            listed.append(Sample(require_file(image, where), label, truth, category, kind, split, "", named[1], 127))
    return listed
