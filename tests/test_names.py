"""Any file name survives in texts for programs, and can be printed in texts for people."""

import csv
import io
import json
import os
import sys
from pathlib import Path

import pytest

from lit_ad.files import resolve_path
from lit_ad.names import escape_bytes, file_name, map_texts, open_table, printable, tell, utf8_path

NAMES = {  # of files, and as people read them
    b"teil_\xfc.png": r"teil_\xfc.png",
    "pr\u00fcf \u65e5\u672c.png".encode(): "pr\u00fcf \u65e5\u672c.png",
    b"a\nb\r\t\x1b[31m.png": r"a\nb\r\t\x1b[31m.png",
    "\u2028\x85".encode(): r"\u2028\x85",
    b"-,\";#%'$HOME": "-,\";#%'$HOME",
}


@pytest.mark.parametrize("name", NAMES)
def test_any_name_survives_tables_and_json_and_can_be_printed(tmp_path: Path, name: bytes) -> None:
    text, file = os.fsdecode(name), tmp_path / "a.csv"
    with open_table(file) as stream:
        csv.writer(stream).writerow([text, "1"])
    assert name in file.read_bytes().replace(b'""', b'"')  # its very bytes, but for the quotes of CSV
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
        assert [os.fsencode(cell) for cell in next(csv.reader(stream))] == [name, b"1"]
    assert os.fsencode(json.loads(json.dumps(text))) == name
    assert printable(text) == NAMES[name]
    assert escape_bytes(text).encode("utf-8")
    assert map_texts(printable, {text: [text, 1, None]}) == {NAMES[name]: [NAMES[name], 1, None]}


def test_names_survive_a_locale_that_is_not_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    """In such a locale, the system's functions need other texts than a UTF-8 file contains."""
    monkeypatch.setattr(os, "fsencode", lambda text: text.encode("ascii", "surrogateescape"))
    monkeypatch.setattr(os, "fsdecode", lambda name: name.decode("ascii", "surrogateescape"))
    for name in ("pr\u00fcf".encode(), b"\xfc", b"plain"):
        in_file, in_system = name.decode("utf-8", "surrogateescape"), name.decode("ascii", "surrogateescape")
        assert file_name(in_file) == file_name(in_system) == in_system
        assert printable(in_system) == printable(in_file)
        assert resolve_path(in_file).name == in_system
    assert file_name("\ud800") == "\ud800"  # no file's name


def test_libraries_get_a_path_in_utf8(tmp_path: Path) -> None:
    for name, same in (("pr\u00fcf.onnx", True), ("r\udcfcn.onnx", False)):
        (tmp_path / name).write_bytes(b"network")
        with utf8_path(tmp_path / name) as path:
            assert (path == tmp_path / name) is same
            assert str(path).encode("utf-8") and path.suffix == ".onnx" and path.read_bytes() == b"network"
        assert path.exists() is same and (tmp_path / name).is_file()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_any_name_can_be_printed_on_any_console(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    console = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", console)
    tell("r\udcfcn pr\u00fcf \u65e5:\n  1")
    shown = console.buffer.getvalue().decode(encoding)
    expected = "pr\u00fcf \u65e5".encode(encoding, "backslashreplace").decode(encoding)
    assert shown == f"r\\xfcn {expected}:\n  1\n"
