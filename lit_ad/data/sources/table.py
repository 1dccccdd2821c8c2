"""Images that a table lists: CSV, JSON or Parquet, with one row for each image."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np

from lit_ad.batch import Sample, SplitName
from lit_ad.data.sources.labelme import draw_labelme, draw_mask_beside
from lit_ad.data.sources.shapes import Polygon, keep_mask, rasterise, read_boxes, read_polygons
from lit_ad.data.sources.source import Source, require_file, select_categories
from lit_ad.data.sources.table_file import AS_CSV, Row, is_utf8, read_cell, read_table
from lit_ad.errors import UserError
from lit_ad.files import resolve_path
from lit_ad.image.pixels import read_upright_size, split_page
from lit_ad.names import file_name

REQUIRED = ("path", "split", "label")
SHAPES: dict[str, Callable[[Any], list[Polygon]]] = {"box": read_boxes, "polygon": read_polygons}
_PATHS = ("path", "mask")
COLUMNS = (*REQUIRED, "mask", "category", "defect", "item", *SHAPES)
SPLITS: dict[str, SplitName] = {split: split for split in get_args(SplitName) if split != "predict"}
LABELS = {
    **{"0": 0, "nominal": 0, "good": 0, "ok": 0, "false": 0},
    **{"1": 1, "anomalous": 1, "bad": 1, "nok": 1, "true": 1},
}
_WHOLE = re.compile(r"([01])[.,]0+")  # a label that a program wrote as a number: 1.0, or 1,0
_ROUNDED = re.compile(r"[+-]?\d+([.,]\d+)?E[+-]?\d+", re.IGNORECASE)  # a long number as spreadsheets write it: 1.23E+12


class Table(Source):
    """The images that a table lists.

    Every row needs these columns: `path`; `split`, which is train, validation or test; and `label`, which is 0 or 1,
    nominal or anomalous, good or bad, ok or nok, false or true (true is anomalous).

    Further columns are optional: `category`; `defect`, the defect type of an anomalous image; `item` (all images of
    an item stay on one side of each split); and one of `mask`, `box` or `polygon`. A mask is a file whose pixels
    that are not black mark a defect, or a JSON file of labelme. A box is [x0, y0, x1, y1], a polygon [[x, y],
    ...], in pixels of the upright image from its upper left corner; x1 and y1 are outside. Several boxes or polygons
    are a list; text cells hold them as JSON. An anomalous image without these columns may have labelme's NAME.json
    beside it. Masks of boxes and polygons are drawn into the cache directory. Other columns are not read.

    Args:
        root: Folder that the paths in the table, and `table` itself, are relative to.
        table: The file: .csv (with commas, semicolons or tabs), .json (a list of objects), .jsonl or .parquet.
        category: The categories to take. None: all.
    """

    def __init__(self, root: Path, table: str | Path, category: str | list[str] | None = None) -> None:
        self.root, self.category = resolve_path(root), category
        self.table = resolve_path(table, self.root)  # str first: the command line makes a Path absolute at once

    def samples(self) -> list[Sample]:
        rows = self._read_rows()
        seen: dict[Path, str] = {}
        listed = []
        for where, row in rows:
            sample = self._make_sample(row, where)
            other = seen.setdefault(sample.image, where)
            if other != where:
                raise UserError(
                    f"{where}: {sample.image} is listed already, in {other}; give several boxes as one list"
                )
            listed.append(sample)
        return sorted(listed, key=lambda sample: list(SPLITS).index(sample.split))  # in the table's order in each split

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Return one task for each category."""
        return {
            name: {"category": name} for name in dict.fromkeys(self._read_category(row) for _, row in self._read_rows())
        }

    def remarks(self) -> list[str]:
        """Return a sentence about the columns that are not read."""
        other = list(dict.fromkeys(name for _, row in self._read_rows() for name in row if name not in COLUMNS))
        return [f"columns of {self.table} that are not read: {', '.join(other)}"] if other else []

    def _read_rows(self) -> list[tuple[str, Row]]:
        """Return the rows of the wanted categories, each with its place in words."""
        rows = read_table(require_file(self.table, "no table"), COLUMNS, REQUIRED, _PATHS)
        chosen = select_categories(
            self.category, dict.fromkeys(self._read_category(row) for _, row in rows), self.table
        )
        return [(where, row) for where, row in rows if self._read_category(row) in chosen]

    def _read_category(self, row: Row) -> str:
        return read_cell(row, "category") or self.table.stem

    def _make_sample(self, row: Row, where: str) -> Sample:
        """Return the sample of one row. Raises UserError if the row is wrong. `where`: the row, for messages."""
        if read_cell(row, "path") == "":
            raise UserError(f"{where} has no path")
        named = read_cell(row, "split")
        split, label = SPLITS.get(named.lower()), _read_label(read_cell(row, "label"))
        if split is None:
            raise UserError(f"{where}: split is {named!r}, but it must be {', '.join(SPLITS)}")
        if label is None:
            raise UserError(f"{where}: label is {read_cell(row, 'label')!r}, but it must be {', '.join(LABELS)}")
        if label and split != "test":
            raise UserError(f"{where} is anomalous in {split}: training and validation take nominal images only")
        category, defect = self._read_category(row), read_cell(row, "defect") or "anomalous"
        if label and defect == "good":
            raise UserError(f"{where} is anomalous, but its defect is 'good'")
        for name in (category, defect):
            if any(sign in name for sign in "/\\\r\n") or not name.strip("."):
                raise UserError(f"{where}: {name!r} is no name: slashes and line breaks cannot be in it")
        for column in ("path", "category", "defect", "item"):
            if _ROUNDED.fullmatch(read_cell(row, column)):
                raise UserError(
                    f"{where}: {column} is {read_cell(row, column)}, a number that a spreadsheet has rounded: format "
                    "that column as text, and fill it again"
                )
        image = self._find_file(row, "path", where)
        mask, kind = self._find_mask(row, image, label, where), defect if label else "good"
        return Sample(image, label, mask, category, kind, split, "", read_cell(row, "item"))

    def _find_file(self, row: Row, column: str, where: str) -> Path:
        """Return the file that a cell names. Raises UserError if it does not exist. Backslashes of Windows become
        slashes, unless a file has them in its name."""
        text = read_cell(row, column)
        name = file_name(text)
        if "\\" in name and not split_page(self.root / name)[0].exists():
            name = name.replace("\\", "/")
        if not is_utf8(text) and not split_page(self.root / name)[0].exists():
            raise UserError(f"{where} has {text!a}, which is not UTF-8, and no file is called so: {AS_CSV}")
        path = self.root / name
        return require_file(resolve_path(path) if ".." in path.parts else path, where)  # so that each file has one path

    def _find_mask(self, row: Row, image: Path, label: int, where: str) -> Path | None:
        """Return the mask of a row; draw it if boxes, polygons or a labelme file mark the defects."""
        given = [name for name in ("mask", *SHAPES) if read_cell(row, name)]
        if not given:
            return draw_mask_beside(image) if label else None
        if len(given) > 1 or not label:
            other = f"has {' and '.join(given)}: give one" if len(given) > 1 else f"is nominal, but has a {given[0]}"
            raise UserError(f"{where} {other}")
        name = given[0]
        if name == "mask":
            file = self._find_file(row, "mask", where)
            return draw_labelme(file, image) if file.suffix.lower() == ".json" else file
        height, width = size = read_upright_size(image)
        try:
            polygons = SHAPES[name](row[name])
        except ValueError as error:
            raise UserError(f"{where}: {name} is {row[name]}: {error}") from error
        corners = np.concatenate(polygons)
        mask = rasterise(polygons, size)
        if (corners < 0).any() or (corners > (width, height)).any() or not mask.any():
            raise UserError(
                f"{where}: {name} {row[name]} leaves its image or marks nothing: x, which comes first, ends at "
                f"{width}, y at {height}"
            )
        return keep_mask(mask)


def _read_label(text: str) -> int | None:
    """Return 0 for nominal, 1 for anomalous, None for any other text."""
    match = _WHOLE.fullmatch(text)
    return int(match[1]) if match else LABELS.get(text.lower())
