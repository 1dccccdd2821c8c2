"""These tests find files with the same bytes. test_inspection.py tests the messages about such files."""

from pathlib import Path
from typing import Any

import pytest

from lit_ad.data.audit.duplicates import find_duplicates


def test_only_files_of_equal_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / name for name in "abcde"]
    for file, content in zip(files, (b"1", b"22", b"33", b"22", b"4444"), strict=True):
        file.write_bytes(content)
    opened: list[str] = []
    read: Any = Path.open

    def watch(path: Path, *mode: str) -> Any:
        opened.append(path.name)
        return read(path, *mode)

    monkeypatch.setattr(Path, "open", watch)
    assert find_duplicates(files, 2) == [[files[1], files[3]]]
    # The first piece of each file of equal size, then the whole of files whose pieces are equal.
    assert sorted(opened) == ["b", "b", "c", "d", "d"]


def test_files_that_differ_in_their_first_byte_are_not_duplicates(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "ab"]
    for file in files:
        file.write_bytes(file.name.encode() + bytes(20_000))
    assert find_duplicates(files, 1) == []
