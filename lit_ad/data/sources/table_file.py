"""Read table files of Excel, LibreOffice, pandas and other programs as rows.

Each row comes with its place in words, such as "row 5 of parts.csv", for messages.

A CSV's separator is the one that splits its header into the expected columns. Uncertain input is refused with a line
that says what to change; cells are never guessed.
"""

import codecs
import csv
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from lit_ad.errors import UserError

Row = dict[str, Any]

_DELIMITED = (".csv", ".tsv", ".txt")
OBJECTS = (".json", ".jsonl")
_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
_EXCEL_SEPARATOR = re.compile(r"sep=([,;\t])\r?\n", re.IGNORECASE)  # Excel's first line, which is not the header
_EMPTY = ("", "nan", "<na>", "none", "null")  # cells without a value, as programs write them
_LONGEST_CELL = 2**28  # characters; csv's own limit, 2**17, is too short for a fine polygon
AS_CSV = "save it as CSV UTF-8"
_NO_TABLE = "is no table: expected a .csv, .json or .parquet file"
_WORKBOOK = f"{_NO_TABLE}; of a workbook, save the sheet as CSV UTF-8"
_SIGNATURES = {  # first bytes of files that are not text, whatever their names are
    b"PK\x03\x04": _WORKBOOK,
    b"\xd0\xcf\x11\xe0": _WORKBOOK,
    b"\x1f\x8b": "is compressed: decompress it by gunzip",
    b"PAR1": "is a Parquet file: let its name end in .parquet",
    codecs.BOM_UTF32_LE: f"is UTF-32: {AS_CSV}",
    codecs.BOM_UTF32_BE: f"is UTF-32: {AS_CSV}",
}


def read_table(
    path: Path, columns: Sequence[str], required: Sequence[str], paths: Sequence[str] = ()
) -> list[tuple[str, Row]]:
    """Return the rows that are not empty, each with its place, such as "row 5 of parts.csv".

    In a CSV, row 1 is the header, as in spreadsheets; in other formats it is the first object. Spaces around names and
    cells are removed, and so is a CSV's column without a name: pandas writes its index as one. Values of a CSV are
    texts; other formats have values of several types.

    Args:
        path: A .csv, .tsv or .txt file with commas, semicolons or tabs; .json, .jsonl or .parquet.
        columns: The known columns; the file may write them in capitals.
        required: Columns that every row must have.
        paths: Columns of file names, which may have bytes that are not UTF-8.

    Raises:
        UserError: The file is no such table, or a row does not fit. The message names the row.
    """
    suffix = path.suffix.lower()
    if suffix in (".xlsx", ".xlsm", ".xls", ".ods"):
        raise UserError(f"{path} {_WORKBOOK}")
    if suffix not in (*_DELIMITED, *OBJECTS, ".parquet"):
        raise UserError(f"{path} {_NO_TABLE}")
    if suffix in _DELIMITED:
        rows = _read_delimited(path, columns)
    else:
        objects = _read_parquet(path) if suffix == ".parquet" else read_json(path)
        rows = []
        for number, row in enumerate(objects, 1):
            where = f"row {number} of {path}"
            names = _read_column_names(list(row), columns, where)
            rows.append((where, dict(zip(names, row.values(), strict=True))))
    # Drop rows whose cells are all empty. Keep objects without any name, {}, because the check below refuses them.
    rows = [(where, row) for where, row in rows if not row or not all(map(_is_empty, row.values()))]
    if not rows:
        raise UserError(f"{path} has no rows: expected one for each image")
    for where, row in rows:
        absent = [name for name in required if name not in row]
        if absent:
            hint = f"; cells are separated by {', '.join(_SEPARATORS.values())}" if len(row) == 1 else ""
            raise UserError(f"{where} has no {', '.join(absent)}: there are {', '.join(row) or 'none'}{hint}")
        for name, value in row.items():
            if name not in paths and isinstance(value, str) and not is_utf8(value):
                raise UserError(f"{where} has {value!a}, which is not UTF-8: {AS_CSV}")
    return rows


def read_cell(row: Row, name: str) -> str:
    """Return a cell as text, "" if it is absent or empty. A float without a fraction is written as an integer."""
    value = row.get(name)
    if _is_empty(value):
        return ""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def _is_empty(value: Any) -> bool:
    """Return whether a cell has no value."""
    if isinstance(value, str):
        return value.strip().lower() in _EMPTY
    return value is None or value == [] or (isinstance(value, float) and math.isnan(value))


def is_utf8(value: str) -> bool:
    """Return whether a text was UTF-8 in its file: `decode` keeps other bytes as surrogates."""
    return not any("\udc80" <= character <= "\udcff" for character in value)


def decode(path: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 with a byte order mark. Other bytes become surrogates, as in Python's
    file names.

    Raises:
        UserError: The file is not text, or has another encoding.
    """
    content = path.read_bytes()
    for signature, reason in _SIGNATURES.items():
        if content.startswith(signature):
            raise UserError(f"{path} {reason}")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return content.decode("utf-16")
        except UnicodeDecodeError as error:
            raise UserError(f"{path} begins as UTF-16, but its rest is not UTF-16: {AS_CSV}") from error
    if b"\0" in content:
        raise UserError(f"{path} is no text, or UTF-16 without a byte order mark: {AS_CSV}")
    return content.decode("utf-8", "surrogateescape").lstrip("\ufeff")  # programs may write several marks


def _read_column_names(names: Sequence[str], columns: Sequence[str], where: str) -> list[str]:
    """Return the names of a header without spaces around them. A known column's name may be written in capitals, unless
    the header has the same name in small letters, too.

    Raises:
        UserError: Two columns have the same name.
    """
    stripped = [name.strip() for name in names]
    capitals = {name: name.lower() for name in stripped if name.lower() in columns and name.lower() not in stripped}
    known = [capitals.get(name, name) for name in stripped]
    twice = [name for i, name in enumerate(known) if name and name in known[:i]]
    if twice:
        raise UserError(f"{where} has two columns called {twice[0]}: rename or remove one of them")
    return known


# Text with separators.


def _read_delimited(path: Path, columns: Sequence[str]) -> list[tuple[str, Row]]:
    """Return the rows below the header. Raises UserError if a row has more cells than the header."""
    content, line = decode(path), 1
    if given := _EXCEL_SEPARATOR.match(content):
        content, line = content[given.end() :], 2
    separator = given[1] if given else _find_separator(content, columns, path)
    records = _read_records(content, separator, path, line)
    header_row, cells = next(records, (line, []))
    header = _read_column_names(cells, columns, f"row {header_row} of {path}")
    rows = []
    for number, cells in records:
        where = f"row {number} of {path}"
        nameless = [cell for name, cell in zip(header[1:], cells[1:], strict=False) if cell and not name]
        if len(cells) > len(header) or nameless:  # the first column may be pandas' index
            raise UserError(
                f"{where} has more cells than the header; put text with a {_SEPARATORS[separator]} in it in quotes"
            )
        rows.append((where, {name: cell for name, cell in zip(header, cells, strict=False) if name}))
    return rows


def _find_separator(content: str, columns: Sequence[str], path: Path) -> str:
    """Return the separator by which the header has the most known columns. Raises UserError if two are equally good."""
    counts = {}
    for separator in _SEPARATORS:
        try:
            _, header = next(_read_records(content, separator, path), (1, []))
        except UserError:  # quotes that do not fit this separator
            continue
        counts[separator] = sum(name.lower() in columns for name in header)
    most = max(counts.values(), default=0)
    best = [separator for separator, count in counts.items() if count == most]
    if most and len(best) > 1:
        names = " and ".join(f"{_SEPARATORS[separator]}s" for separator in best)
        raise UserError(f"the header of {path} has {names} between its names: use one of them")
    return best[0] if best else ","


def _read_records(content: str, separator: str, path: Path, first: int = 1) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of each row that is not empty, without spaces around the cells. Raises UserError on quotes
    that do not fit."""
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))  # of the whole process
    table = csv.reader(io.StringIO(content, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    for number in count(first):
        try:
            cells = [cell.strip() for cell in next(table)]
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"row {number} of {path} cannot be read: {error}; check its quotation marks") from error
        if any(cells):
            yield number, cells


# JSON and Parquet.


def read_json(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON list, or of the lines of a .jsonl file. Raises UserError on any other content."""
    content = decode(path)
    try:
        if path.suffix.lower() == ".jsonl":
            values = [json.loads(line, object_pairs_hook=_make_object) for line in content.splitlines() if line.strip()]
        else:
            values = json.loads(content, object_pairs_hook=_make_object)
    except ValueError as error:
        hint = "; a file with an object on each line should end in .jsonl" if "Extra data" in str(error) else ""
        raise UserError(f"cannot read {path}: {error}{hint}") from error
    if not isinstance(values, list) or not all(isinstance(row, dict) for row in values):
        raise UserError(
            f"cannot read {path}: expected a list of objects, one for each image, as pandas writes by "
            "to_json(orient='records')"
        )
    return values


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of JSON. Raises ValueError if a name comes twice; json would silently keep the last value."""
    names = [name for name, _ in pairs]
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise ValueError(f"an object has {twice[0]!r} twice")
    return dict(pairs)


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a Parquet file. Raises UserError if pyarrow is not installed, or the file cannot be read."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise UserError(f"{path} needs pyarrow: pip install 'lit-ad[parquet]', or write it as CSV") from error
    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    return rows
