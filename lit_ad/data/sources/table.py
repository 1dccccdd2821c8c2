"""A table of files: CSV, JSON or Parquet, a row for each image."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np

from lit_ad.batch import Sample, Split
from lit_ad.data.sources.labelme import draw_labelme, mask_beside
from lit_ad.data.sources.shapes import Polygon, keep_mask, rasterise, read_boxes, read_polygons
from lit_ad.data.sources.source import Source, choose, existing
from lit_ad.data.sources.table_file import AS_CSV, Row, cell_text, is_utf8, read_table
from lit_ad.errors import UserError
from lit_ad.files import resolve_path
from lit_ad.image.pixels import split_page, upright_size
from lit_ad.names import file_name

REQUIRED = ("path", "split", "label")
SHAPES: dict[str, Callable[[Any], list[Polygon]]] = {"box": read_boxes, "polygon": read_polygons}
_PATHS = ("path", "mask")
COLUMNS = (*REQUIRED, "mask", "category", "defect", "item", *SHAPES)
SPLITS: dict[str, Split] = {split: split for split in get_args(Split) if split != "predict"}
LABELS = {
    **{"0": 0, "nominal": 0, "good": 0, "ok": 0, "false": 0},
    **{"1": 1, "anomalous": 1, "bad": 1, "nok": 1, "true": 1},
}
_WHOLE = re.compile(r"([01])[.,]0+")  # a label that a program took for a number: 1.0, or 1,0
_ROUNDED = re.compile(r"[+-]?\d+([.,]\d+)?E[+-]?\d+", re.IGNORECASE)  # a long number as spreadsheets write it: 1.23E+12


class Table(Source):
    """The images that a table lists.

    Columns: `path`, `split` (train, validation or test) and `label` (0 or 1, nominal or anomalous, good or bad, ok or
    nok, false or true, where true is anomalous); and where there are any, `mask` (a file in which what is not black
    counts, or labelme's JSON), or `box` or `polygon` instead, `category`, `defect` (of anomalous images) and `item`
    (images of one item stay on one side). A box is [x0, y0, x1, y1], a polygon [[x, y], ...], in pixels of the upright
    image from its upper left corner, x1 and y1 outside; several are a list of such; in text they are JSON. An anomalous
    image without them may have labelme's NAME.json beside it. JSON is a list of objects. Other columns are not read.
    Masks that are drawn from shapes are kept in the cache directory.

    Args:
        root: What paths are relative to, that of the table too.
        table: The file: .csv (with commas, semicolons or tabs), .json, .jsonl or .parquet.
        category: The categories to take; all of them if not given.
    """

    def __init__(self, root: Path, table: str | Path, category: str | list[str] | None = None) -> None:
        self.root, self.category = resolve_path(root), category
        self.table = resolve_path(table, self.root)  # str first: the command line makes a Path absolute at once

    def samples(self) -> list[Sample]:
        rows = self._rows()
        seen: dict[Path, str] = {}
        listed = []
        for where, row in rows:
            sample = self._sample(row, where)
            other = seen.setdefault(sample.image, where)
            if other != where:
                raise UserError(
                    f"{where}: {sample.image} is listed already, in {other}; give several boxes as one list"
                )
            listed.append(sample)
        return sorted(listed, key=lambda sample: list(SPLITS).index(sample.split))  # stable: as the table has them

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Each category."""
        return {name: {"category": name} for name in dict.fromkeys(self._category(row) for _, row in self._rows())}

    def remarks(self) -> list[str]:
        """The columns that are not read."""
        other = list(dict.fromkeys(name for _, row in self._rows() for name in row if name not in COLUMNS))
        return [f"columns of {self.table} that are not read: {', '.join(other)}"] if other else []

    def _rows(self) -> list[tuple[str, Row]]:
        """The rows of the categories that are asked for, each with its place in words."""
        rows = read_table(existing(self.table, "no table"), COLUMNS, REQUIRED, _PATHS)
        chosen = choose(self.category, dict.fromkeys(self._category(row) for _, row in rows), self.table)
        return [(where, row) for where, row in rows if self._category(row) in chosen]

    def _category(self, row: Row) -> str:
        return cell_text(row, "category") or self.table.stem

    def _sample(self, row: Row, where: str) -> Sample:
        """The sample of one row, or a UserError that names it."""
        if cell_text(row, "path") == "":
            raise UserError(f"{where} has no path")
        named = cell_text(row, "split")
        split, label = SPLITS.get(named.lower()), _read_label(cell_text(row, "label"))
        if split is None:
            raise UserError(f"{where}: split is {named!r}, but it must be {', '.join(SPLITS)}")
        if label is None:
            raise UserError(f"{where}: label is {cell_text(row, 'label')!r}, but it must be {', '.join(LABELS)}")
        if label and split != "test":
            raise UserError(f"{where} is anomalous in {split}: training and validation take nominal images only")
        category, defect = self._category(row), cell_text(row, "defect") or "anomalous"
        if label and defect == "good":
            raise UserError(f"{where} is anomalous, but its defect is 'good'")
        for name in (category, defect):
            if any(sign in name for sign in "/\\\r\n") or not name.strip("."):
                raise UserError(f"{where}: {name!r} is no name: slashes and line breaks cannot be in it")
        for column in ("path", "category", "defect", "item"):
            if _ROUNDED.fullmatch(cell_text(row, column)):
                raise UserError(
                    f"{where}: {column} is {cell_text(row, column)}, a number that a spreadsheet has rounded: format "
                    "that column as text, and fill it again"
                )
        image = self._file(row, "path", where)
        mask, kind = self._mask(row, image, label, where), defect if label else "good"
        return Sample(image, label, mask, category, kind, split, "", cell_text(row, "item"))

    def _file(self, row: Row, column: str, where: str) -> Path:
        """The file that a cell names. Raises UserError if there is none. Windows' backslashes are slashes where no file
        has them in its name."""
        text = cell_text(row, column)
        name = file_name(text)
        if "\\" in name and not split_page(self.root / name)[0].exists():
            name = name.replace("\\", "/")
        if not is_utf8(text) and not split_page(self.root / name)[0].exists():
            raise UserError(f"{where} has {text!a}, which is not UTF-8, and no file is called so: {AS_CSV}")
        return existing(self.root / name, where)

    def _mask(self, row: Row, image: Path, label: int, where: str) -> Path | None:
        """The mask's file, drawn where boxes, polygons or a labelme file mark the defects."""
        given = [name for name in ("mask", *SHAPES) if cell_text(row, name)]
        if not given:
            return mask_beside(image) if label else None
        if len(given) > 1 or not label:
            other = f"has {' and '.join(given)}: give one" if len(given) > 1 else f"is nominal, but has a {given[0]}"
            raise UserError(f"{where} {other}")
        name = given[0]
        if name == "mask":
            file = self._file(row, "mask", where)
            return draw_labelme(file, image) if file.suffix.lower() == ".json" else file
        height, width = size = upright_size(image)
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
    """0 nominal, 1 anomalous, None of a text that says neither."""
    match = _WHOLE.fullmatch(text)
    return int(match[1]) if match else LABELS.get(text.lower())
