import codecs
import json
from pathlib import Path

import pytest

from lit_ad.data.sources.table_file import read_cell, read_table
from lit_ad.errors import UserError

COLUMNS = ("path", "split", "label", "defect")
REQUIRED = COLUMNS[:3]
LINES = ["path,split,label,defect", "a.png,train,0,", "b.png,test,1,dent"]
ROWS = [
    {"path": "a.png", "split": "train", "label": "0", "defect": ""},
    {"path": "b.png", "split": "test", "label": "1", "defect": "dent"},
]


def read(path: Path, content: str | bytes) -> list[tuple[str, dict[str, object]]]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path, COLUMNS, REQUIRED, ("path",))


PLAIN = "\n".join(LINES) + "\n"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(PLAIN, id="commas"),
        pytest.param(PLAIN.replace(",", ";"), id="semicolons"),
        pytest.param(PLAIN.replace(",", "\t"), id="tabs"),
        pytest.param("sep=;\r\n" + PLAIN.replace(",", ";"), id="Excel's line that names the separator"),
        pytest.param(PLAIN.replace("\n", "\r\n"), id="line ends of Windows"),
        pytest.param(PLAIN.replace("\n", "\r"), id="line ends of an old Mac"),
        pytest.param(PLAIN.replace(",", " , "), id="spaces"),
        pytest.param(", ".join(f'"{name}"' for name in COLUMNS) + "\n" + "\n".join(LINES[1:]), id="spaces and quotes"),
        pytest.param(PLAIN.replace("path,split,label", "Path,SPLIT,Label "), id="capitals"),
        pytest.param("\n".join(f"{line},," for line in LINES) + "\n,,,,,\n,,,,,\n", id="empty columns and rows"),
        pytest.param("\n\n" + PLAIN.replace("\nb", "\n\n\nb"), id="empty lines"),
        pytest.param("\n".join(f"{i or ''},{line}" for i, line in enumerate(LINES)), id="index of pandas"),
        pytest.param(codecs.BOM_UTF8 + PLAIN.encode(), id="byte order mark"),
        pytest.param(codecs.BOM_UTF8 * 2 + PLAIN.encode(), id="two byte order marks"),
        pytest.param(PLAIN.replace(",", "\t").encode("utf-16"), id="Unicode text of Excel"),
        pytest.param(codecs.BOM_UTF16_BE + PLAIN.encode("utf-16-be"), id="big-endian UTF-16"),
    ],
)
def test_every_form_of_csv_of_spreadsheets_and_pandas_is_read(tmp_path: Path, content: str | bytes) -> None:
    assert [row for _, row in read(tmp_path / "parts.csv", content)] == ROWS


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt", ".CSV"])
def test_a_separator_is_found_by_the_header_whatever_the_suffix(tmp_path: Path, suffix: str) -> None:
    content = 'path;split;label;defect\n"a;1, x.png";train;0;\n"b ""2"".png";test;"1,0";"two\nlines"\n'
    rows = read(tmp_path / f"parts{suffix}", content)
    assert [tuple(row.values()) for _, row in rows] == [
        ("a;1, x.png", "train", "0", ""),
        ('b "2".png', "test", "1,0", "two\nlines"),
    ]


def test_rows_are_counted_as_spreadsheets_count_them(tmp_path: Path) -> None:
    """Empty rows count. Line breaks in quotes do not count."""
    rows = read(tmp_path / "parts.csv", 'path,split,label,defect\n\n"a\nb.png",train,0,\n,,,\nc.png,train,0,\n')
    assert [where for where, _ in rows] == [f"row {number} of {tmp_path / 'parts.csv'}" for number in (3, 5)]


def test_a_long_cell_is_read(tmp_path: Path) -> None:
    cell = str([[i, i] for i in range(20_000)])
    (_, row), *_ = read(tmp_path / "parts.csv", f'path,split,label,defect\na.png,test,1,"{cell}"\n')
    assert row["defect"] == cell


def test_a_column_in_capitals_is_ignored_where_the_exact_name_exists(tmp_path: Path) -> None:
    (_, row), *_ = read(tmp_path / "parts.csv", "path,split,label,Label\na.png,train,0,x\n")
    assert row == {"path": "a.png", "split": "train", "label": "0", "Label": "x"}


def test_file_names_that_are_not_utf8_are_kept(tmp_path: Path) -> None:
    (_, row), *_ = read(tmp_path / "parts.csv", b"path,split,label\nteil_\xfc.png,train,0\n")
    assert str(row["path"]).encode("utf-8", "surrogateescape") == b"teil_\xfc.png"


def test_json_and_jsonl_are_read_in_each_encoding(tmp_path: Path) -> None:
    rows = [{" Path": "a.png", "split": "train", "label": False}, {"path": "b.png", "split": "test", "label": 1.0}]
    nothing = {"path": None, "split": "", "label": float("nan")}
    expected = [("a.png", "False"), ("b.png", "1")]
    files = {
        "a.json": json.dumps([*rows, nothing]).encode(),
        "b.json": codecs.BOM_UTF8 + json.dumps(rows).encode(),
        "c.json": json.dumps(rows).encode("utf-16"),
        "d.jsonl": "\n".join(map(json.dumps, rows)).encode(),
    }
    for name, content in files.items():
        read_rows = read(tmp_path / name, content)
        assert [(read_cell(row, "path"), read_cell(row, "label")) for _, row in read_rows] == expected


@pytest.mark.parametrize("value", ["", "  ", "nan", "NaN", "<NA>", "None", "null", None, float("nan"), []])
def test_a_cell_without_a_value_is_empty(value: object) -> None:
    assert read_cell({"defect": value}, "defect") == read_cell({}, "defect") == ""


@pytest.mark.parametrize(("value", "text"), [(" dent ", "dent"), (7.0, "7"), (7.5, "7.5"), (0, "0"), (True, "True")])
def test_a_cell_is_converted_to_text(value: object, text: str) -> None:
    assert read_cell({"defect": value}, "defect") == text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "path|split|label\na|train|0\n", r"row 2 of .*a.csv has no path, .*; cells are separated by comma"),
        ("a.csv", "path;split,label\na;train,0\n", r"header of .*a.csv has commas and semicolons between its names"),
        ("a.csv", "path,split,label,defect\na,b.png,train,0,\n", r"row 2 of .* more cells .*text with a comma"),
        ("a.csv", "path,split,label,\na,b.png,train,0\n", r"row 2 of .* more cells .*text with a comma"),
        ("a.csv", 'path,split,label\n"a.png,train,0\n', r"row 2 of .*a.csv cannot be read: unexpected end of data"),
        (
            "a.csv",
            'path,split,label\n"a".png,train,0\n',
            r"row 2 of .*a.csv cannot be read: .*check its quotation marks",
        ),
        ("a.csv", "path,split,label,label\na.png,train,0,1\n", r"row 1 of .* has two columns called label"),
        ("a.csv", "path,split,label\n,,\n", r"a.csv has no rows"),
        ("a.csv", "", r"a.csv has no rows"),
        ("a.csv", b"path,split,label,defect\na.png,test,1,Bl\xe4schen\n", r"row 2 of .*'Bl\\udce4schen', .*not UTF-8"),
        ("a.csv", PLAIN.encode("utf-16-le"), r"a.csv is no text, or UTF-16 without a byte order mark: save it as CSV"),
        ("a.csv", PLAIN.encode("utf-32"), r"a.csv is UTF-32: save it as CSV UTF-8"),
        ("a.csv", codecs.BOM_UTF16_LE + b"a", r"a.csv begins as UTF-16, but its rest is not UTF-16"),
        ("a.csv", b"PK\x03\x04...", r"a.csv is no table: .*of a workbook, save the sheet as CSV UTF-8"),
        ("a.csv", b"PAR1...", r"a.csv is a Parquet file: let its name end in .parquet"),
        ("a.csv", b"\x1f\x8b...", r"a.csv is compressed: decompress it"),
        ("a.xlsx", b"PK\x03\x04...", r"a.xlsx is no table: .*of a workbook, save the sheet as CSV UTF-8"),
        ("a.ods", b"PK\x03\x04...", r"a.ods is no table: .*of a workbook, save the sheet as CSV UTF-8"),
        ("a.png", b"...", r"a.png is no table: expected a .csv, .json or .parquet file$"),
        ("a.json", '{"path": {"0": "a.png"}}', r"expected a list of objects, .*to_json\(orient='records'\)"),
        ("a.json", '[{"path": "a", "split": "train", "label": 0, "label": 1}]', r"an object has 'label' twice"),
        ("a.json", '[{"path": "a", "split": "train", "Label": 0, "LABEL": 1}]', r"row 1 of .*two columns called label"),
        ("a.json", "{}\n{}\n", r"cannot read .*Extra data.*; a file with an object on each line should end in .jsonl"),
        ("a.json", "[]", r"a.json has no rows"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_reason(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path / name, content)


def test_parquet_is_read_and_repeated_columns_are_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(
        pyarrow.table({"path": ["a.png", "b.png"], "split": ["train"] * 2, "label": [0.0, 1.0]}), tmp_path / "a.parquet"
    )
    rows = read_table(tmp_path / "a.parquet", COLUMNS, REQUIRED)
    assert [read_cell(row, "label") for _, row in rows] == ["0", "1"]
    twice = pyarrow.Table.from_arrays([pyarrow.array(["a.png"])] * 2, ["path", "path"])
    parquet.write_table(twice, tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"cannot read .*b.parquet: Multiple matches .*path"):
        read_table(tmp_path / "b.parquet", COLUMNS, REQUIRED)
