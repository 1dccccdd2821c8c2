import csv
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lit_ad.data import Table
from lit_ad.data.datamodule import AnomalyDataModule
from lit_ad.data.masks import read_truth
from lit_ad.data.sources.source import check_samples
from lit_ad.errors import UserError
from lit_ad.image.view import View
from tests.data.conftest import Write
from tests.optional import unwrap

Row = dict[str, Any]


@pytest.fixture
def rows(write: Write, write_mask: Write) -> list[Row]:
    """Make rows of seven training images, one validation image, one good test image, and three defective test images
    with a mask, boxes and a polygon."""
    found: list[Row] = []
    for i in range(7):
        write(f"images/{i}.png")
        found.append({"path": f"images/{i}.png", "split": "train", "label": 0, "item": f"part{i // 2}"})
    for name, split in (("v", "validation"), ("t", "test")):
        write(f"images/{name}.png")
        found.append({"path": f"images/{name}.png", "split": split, "label": "nominal"})
    write_mask("masks/a.png")
    shapes: tuple[Row, ...] = (
        {"mask": "masks/a.png"},
        {"box": [[1, 2, 4, 4], [10, 0, 11, 20]]},
        {"polygon": [[0, 0], [24, 0], [0, 20]]},
    )
    for name, shape in zip("abc", shapes, strict=True):
        write(f"images/{name}.png")
        found.append({"path": f"images/{name}.png", "split": "test", "label": 1, "defect": "dent", **shape})
    return found


def save(path: Path, rows: list[Row]) -> Path:
    """Save the same table in the format of the suffix."""
    if path.suffix == ".csv":
        names = list(dict.fromkeys(name for row in rows for name in row))
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            for row in rows:
                writer.writerow({k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()})
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        names = list(dict.fromkeys(name for row in rows for name in row))
        as_text = [{k: str(v) if isinstance(v, int) else v for k, v in row.items()} for row in rows]
        parquet.write_table(pa.table({name: [row.get(name) for row in as_text] for name in names}), path)
    return path


@pytest.mark.parametrize("name", ["parts.csv", "parts.json", "parts.parquet"])
def test_each_format_of_a_table_lists_the_same_samples(tmp_path: Path, rows: list[Row], name: str) -> None:
    samples = Table(tmp_path, save(tmp_path / name, rows).name).samples()
    check_samples(samples)
    assert Counter((s.split, s.label, s.defect, s.category) for s in samples) == {
        ("train", 0, "good", "parts"): 7,
        ("validation", 0, "good", "parts"): 1,
        ("test", 0, "good", "parts"): 1,
        ("test", 1, "dent", "parts"): 3,
    }
    assert [s.split for s in samples] == [*["train"] * 7, "validation", *["test"] * 4]
    assert [s.item for s in samples][:8] == [*(f"part{i // 2}" for i in range(7)), ""]
    masks = {s.image.stem: unwrap(read_truth(s, (20, 24))) for s in samples if s.label}
    assert {stem: int(mask.sum()) for stem, mask in masks.items()} == {"a": 120, "b": 6 + 20, "c": 240}
    assert masks["b"][2:4, 1:4].all() and masks["b"][:, 10].all()


def test_masks_of_shapes_are_drawn_once(tmp_path: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    table = save(tmp_path / "parts.csv", rows)
    first = [s.mask for s in Table(tmp_path, table).samples() if s.mask]
    files = [mask.stat().st_ino for mask in first]
    assert [s.mask for s in Table(tmp_path, table).samples() if s.mask] == first
    assert [mask.stat().st_ino for mask in first] == files  # a mask written again is another file
    assert len(list((tmp_path / "cache/lit_ad/masks").iterdir())) == 2
    rows[-1]["polygon"] = [[0, 0], [24, 0], [0, 10]]  # another polygon is another file
    assert Table(tmp_path, save(table, rows)).samples()[-1].mask != first[-1]


def test_paths_are_relative_to_the_root_and_each_category_is_a_task(tmp_path: Path, rows: list[Row]) -> None:
    for i, row in enumerate(rows):
        row["category"] = "nut" if i % 2 else "bolt"
        row.pop("item", None)
    (tmp_path / "tables").mkdir()
    table = save(tmp_path / "tables" / "parts.csv", rows)
    with pytest.raises(UserError, match=r"row 2 of .*parts.csv: there is no file .*tables/images/0.png"):
        Table(tmp_path / "tables", "parts.csv").samples()
    assert {s.category for s in Table(tmp_path, "tables/parts.csv").samples()} == {"nut", "bolt"}
    assert {s.category for s in Table(tmp_path, table, "nut").samples()} == {"nut"}
    assert Table(tmp_path, table).tasks() == {"bolt": {"category": "bolt"}, "nut": {"category": "nut"}}
    with pytest.raises(UserError, match=r"no category screw in .*parts.csv: there are bolt, nut"):
        Table(tmp_path, table, ["screw"]).samples()


def test_the_datamodule_loads_a_table_and_keeps_items_together(tmp_path: Path, rows: list[Row]) -> None:
    data = AnomalyDataModule(
        Table(tmp_path, save(tmp_path / "parts.csv", [r for r in rows if r["split"] != "validation"])), View(16)
    )
    assert not {s.item for s in data.splits.train} & {s.item for s in data.splits.val}
    data.setup("test")
    assert [int(mask.sum()) for batch in data.test_dataloader() for mask in batch.masks] == [0, 120, 26, 240]


def test_columns_that_are_not_read_are_reported(tmp_path: Path, rows: list[Row]) -> None:
    table = save(tmp_path / "parts.csv", rows)
    assert Table(tmp_path, table).remarks() == []
    rows[0] |= {"Mask": "x", "camera": 3}
    assert Table(tmp_path, save(table, rows)).remarks() == [f"columns of {table} that are not read: Mask, camera"]


@pytest.mark.parametrize(
    ("number", "values", "message"),
    [
        (0, {"path": ""}, r"row 2 of .* has no path"),
        (0, {"path": "images/none.png"}, r"row 2 of .*: there is no file .*none.png"),
        (1, {"split": "val"}, r"row 3 of .*: split is 'val', but it must be train, validation, test"),
        (2, {"label": "2"}, r"row 4 of .*: label is '2', but it must be 0, nominal"),
        (3, {"label": 1}, r"row 5 of .* is anomalous in train"),
        (7, {"label": "bad"}, r"row 9 of .* is anomalous in validation"),
        (4, {"path": "images/3.png"}, r"row 6 of .*: .*images/3.png is listed already, in row 5 of"),
        (5, {"category": "a/b"}, r"row 7 of .*: 'a/b' is no name: slashes"),
        (5, {"category": ".."}, r"row 7 of .*: '..' is no name: slashes"),
        (2, {"label": "0.5"}, r"row 4 of .*: label is '0.5', but it must be 0, nominal"),
        (5, {"item": "1.23457E+12"}, r"row 7 of .*: item is 1.23457E\+12, a number that a spreadsheet has rounded"),
        (9, {"defect": "1,2E+05"}, r"row 11 of .*: defect is 1,2E\+05, a number that a spreadsheet has rounded"),
        (10, {"box": "[5,5; 4; 6; 7]"}, r"row 12 of .*: box is .*: it is no JSON, .* a point in numbers"),
        (9, {"defect": "good"}, r"row 11 of .* is anomalous, but its defect is 'good'"),
        (9, {"mask": "masks/none.png"}, r"row 11 of .*: there is no file .*masks/none.png"),
        (9, {"box": "[0, 0, 1, 1]"}, r"row 11 of .* has mask and box: give one"),
        (8, {"box": "[0, 0, 1, 1]"}, r"row 10 of .* is nominal, but has a box"),
        (10, {"box": "[5, 5, 4, 6]"}, r"row 12 of .*: box is \[5, 5, 4, 6\]: a box is"),
        (10, {"box": "5 5 4 6"}, r"row 12 of .*: box is 5 5 4 6: "),
        (
            10,
            {"box": "[0, 10, 20, 24]"},
            r"row 12 of .* leaves its image .*: x, which comes first, ends at 24, y at 20",
        ),
        (10, {"box": "[1.1, 1.1, 1.2, 1.2]"}, r"row 12 of .* or marks nothing"),
        (11, {"polygon": "[[0, 0], [1, 1]]"}, r"row 13 of .*: polygon is .*: a polygon is a list of three"),
    ],
)
def test_a_wrong_row_is_named_in_the_error(
    tmp_path: Path, rows: list[Row], number: int, values: Row, message: str
) -> None:
    rows[number] |= values
    with pytest.raises(UserError, match=message):
        Table(tmp_path, save(tmp_path / "parts.csv", rows)).samples()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "path,split\nx.png,train\n", r"row 2 of .*a.csv has no label: there are path, split"),
        ("a.csv", "path,split,label\nx.png,train,0,1\n", r"row 2 of .*a.csv has more cells than the header"),
        ("a.json", "{}", r"cannot read .*a.json: expected a list of objects"),
        ("a.json", "[", r"cannot read .*a.json"),
        ("a.json", "[{}]", r"row 1 of .*a.json has no path, split, label: there are none"),
        ("a.parquet", "no parquet", r"cannot read .*a.parquet"),
        ("a.xlsx", "", r"a.xlsx is no table: expected a .csv, .json or .parquet file"),
    ],
)
def test_a_file_that_is_not_a_table_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        Table(tmp_path, name).samples()
    with pytest.raises(UserError, match=r"no table: there is no file .*none.csv"):
        Table(tmp_path, "none.csv").samples()


def test_a_mask_file_of_a_nominal_image_is_refused(tmp_path: Path, rows: list[Row]) -> None:
    rows[8]["mask"] = "masks/a.png"
    with pytest.raises(UserError, match=r"row 10 of .* is nominal, but has a mask"):
        Table(tmp_path, save(tmp_path / "parts.csv", rows)).samples()


@pytest.mark.parametrize("suffix", ["csv", "json"])
@pytest.mark.parametrize(
    "labels", [(0.0, 1.0), (False, True), ("0,0", "1,0"), ("FALSE", "TRUE"), ("0.00", "1.00"), ("Good", " NOK ")]
)
def test_labels_are_read_in_the_forms_that_programs_write(
    tmp_path: Path, rows: list[Row], labels: tuple[Any, Any], suffix: str
) -> None:
    expected = Table(tmp_path, save(tmp_path / f"before.{suffix}", rows), None).samples()
    for row in rows:
        row |= {"label": labels[int(row["label"] == 1)], "split": row["split"].capitalize()}
    samples = Table(tmp_path, save(tmp_path / f"after.{suffix}", rows)).samples()
    assert [(s.image, s.label, s.mask, s.split) for s in samples] == [
        (s.image, s.label, s.mask, s.split) for s in expected
    ]


def test_paths_with_backslashes_are_read(tmp_path: Path, rows: list[Row], write: Write) -> None:
    expected = [s.image for s in Table(tmp_path, save(tmp_path / "parts.csv", rows)).samples()]
    for row in rows:
        row |= {name: row[name].replace("/", "\\") for name in ("path", "mask") if name in row}
    assert [s.image for s in Table(tmp_path, save(tmp_path / "parts.csv", rows)).samples()] == expected
    image = write("a\\b.png")  # outside of Windows, a file name may contain a backslash
    rows[0]["path"] = image.name
    assert Table(tmp_path, save(tmp_path / "parts.csv", rows)).samples()[0].image == image


def test_a_file_name_that_is_not_utf8_is_read_if_the_file_exists(tmp_path: Path, rows: list[Row]) -> None:
    image, name = tmp_path / "images/0.png", b"images/teil_\xfc.png"
    table = save(tmp_path / "parts.csv", rows)
    table.write_bytes(table.read_bytes().replace(b"images/0.png", name))
    with pytest.raises(UserError, match=r"row 2 of .* not UTF-8, and no file is called so: save it as CSV UTF-8"):
        Table(tmp_path, table).samples()
    image.rename(tmp_path / os.fsdecode(name))
    assert os.fsencode(Table(tmp_path, table).samples()[0].image.name) == b"teil_\xfc.png"
