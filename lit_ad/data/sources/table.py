"""A table of files: CSV, JSON or Parquet, a row for each image."""

import csv
import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image

from lit_ad.batch import Sample, Split
from lit_ad.data.sources.shapes import Polygon, rasterise, read_boxes, read_polygons
from lit_ad.data.sources.source import Source, choose, existing
from lit_ad.errors import UserError
from lit_ad.files import atomic_write, cache_directory
from lit_ad.image.pixels import upright_size

Row = dict[str, Any]

REQUIRED = ("path", "split", "label")
SHAPES: dict[str, Callable[[Any], list[Polygon]]] = {"box": read_boxes, "polygon": read_polygons}
COLUMNS = (*REQUIRED, "mask", "category", "defect", "item", *SHAPES)
SPLITS: dict[str, Split] = {split: split for split in get_args(Split) if split != "predict"}
LABELS = {"0": 0, "nominal": 0, "good": 0, "ok": 0, "1": 1, "anomalous": 1, "bad": 1, "nok": 1}


class Table(Source):
    """The images that a table lists.

    Columns: `path`, `split` (train, validation or test) and `label` (0 or 1, nominal or anomalous, good or bad, ok or
    nok); and where there are any, `mask` (a file in which what is not black counts), or `box` or `polygon` instead,
    `category`, `defect` (of anomalous images) and `item` (images of one item stay on one side). A box is
    [x0, y0, x1, y1], a polygon [[x, y], ...], in pixels of the upright image from its upper left corner, x1 and y1
    outside; several are a list of such; in CSV they are JSON text. JSON is a list of objects. Other columns are not
    read. Masks of boxes and polygons are kept in the cache directory.

    Args:
        root: What paths are relative to, that of the table too.
        table: The file: .csv, .json or .parquet.
        category: The categories to take; all of them if not given.
    """

    def __init__(self, root: Path, table: str, category: str | list[str] | None = None) -> None:
        self.root, self.category = Path(root).expanduser(), category
        self.table = self.root / Path(table).expanduser()  # no Path: the command line makes those absolute at once

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
        read = read_table(existing(self.table, "no table"))
        first = 2 if self.table.suffix.lower() == ".csv" else 1  # a CSV's header is its row 1, as spreadsheets count
        rows = [(f"row {number} of {self.table}", row) for number, row in enumerate(read, first)]
        for where, row in rows:
            if None in row:
                raise UserError(f"{where} has more cells than the header; put text with commas in it in quotes")
            absent = [name for name in REQUIRED if name not in row]
            if absent:
                raise UserError(f"{where} has no {', '.join(absent)}: there are {', '.join(map(str, row)) or 'none'}")
        chosen = choose(self.category, dict.fromkeys(self._category(row) for _, row in rows), self.table)
        return [(where, row) for where, row in rows if self._category(row) in chosen]

    def _category(self, row: Row) -> str:
        return text(row, "category") or self.table.stem

    def _sample(self, row: Row, where: str) -> Sample:
        """The sample of one row, or a UserError that names it."""
        if text(row, "path") == "":
            raise UserError(f"{where} has no path")
        split, label = SPLITS.get(text(row, "split")), LABELS.get(text(row, "label").lower(), -1)
        if split is None:
            raise UserError(f"{where}: split is {text(row, 'split')!r}, but it must be {', '.join(SPLITS)}")
        if label < 0:
            raise UserError(f"{where}: label is {text(row, 'label')!r}, but it must be {', '.join(LABELS)}")
        if label and split != "test":
            raise UserError(f"{where} is anomalous in {split}: training and validation take nominal images only")
        category, defect = self._category(row), text(row, "defect") or "anomalous"
        if label and defect == "good":
            raise UserError(f"{where} is anomalous, but its defect is 'good'")
        for name in (category, defect):
            if "/" in name or "\n" in name:
                raise UserError(f"{where}: {name!r} is no name: slashes and line breaks cannot be in it")
        image = existing(self.root / text(row, "path"), where)
        mask, kind = self._mask(row, image, label, where), defect if label else "good"
        return Sample(image, label, mask, category, kind, split, "", text(row, "item"))

    def _mask(self, row: Row, image: Path, label: int, where: str) -> Path | None:
        """The mask's file, made of boxes or polygons if these are given."""
        given = [name for name in ("mask", *SHAPES) if text(row, name)]
        if not given:
            return None
        if len(given) > 1 or not label:
            other = f"has {' and '.join(given)}: give one" if len(given) > 1 else f"is nominal, but has a {given[0]}"
            raise UserError(f"{where} {other}")
        name = given[0]
        if name == "mask":
            return existing(self.root / text(row, "mask"), where)
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


def text(row: Row, name: str) -> str:
    """A cell as text, "" of an absent one."""
    value = row.get(name)
    return "" if value is None or value == [] else str(int(value) if isinstance(value, bool) else value).strip()


def keep_mask(mask: np.ndarray) -> Path:
    """A mask (H, W) as a file in the cache directory, named by what is in it."""
    digest = hashlib.blake2b(repr(mask.shape).encode() + np.packbits(mask).tobytes(), digest_size=12).hexdigest()
    path = cache_directory() / "masks" / f"{digest}.png"
    if path.is_file():
        with suppress(OSError):  # of others, in a directory that is only to be read
            os.utime(path)  # when it last served, for `lit-ad cache clear --older`
    else:
        with atomic_write(path) as temporary:
            Image.fromarray(mask.astype(np.uint8) * 255).save(temporary, format="PNG")
    return path


def read_table(path: Path) -> list[Row]:
    """The rows of a file. Raises UserError if it holds no table."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".csv":
            with path.open(newline="", encoding="utf-8-sig") as file:
                return list(csv.DictReader(file))
        if suffix == ".json":
            values = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(values, list) or not all(isinstance(row, dict) for row in values):
                raise ValueError("expected a list of objects, one for each image")
            return values
    except (ValueError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if suffix != ".parquet":
        raise UserError(f"{path} is no table: expected a .csv, .json or .parquet file")
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise UserError(f"{path} needs pyarrow: pip install 'lit-ad[parquet]', or write it as CSV") from error
    try:
        rows: list[Row] = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    return rows
