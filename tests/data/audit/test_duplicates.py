"""Files with the same bytes. What is said of them stands in test_inspection.py."""

from pathlib import Path
from typing import Any

import pytest

from lit_ad.data.audit.duplicates import find_duplicates


def test_only_files_of_one_size_are_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert sorted(opened) == ["b", "b", "c", "d", "d"]  # a piece of each, and all of those whose pieces are equal


def test_files_that_differ_outside_their_middle_are_no_copies(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "ab"]
    for file in files:
        file.write_bytes(file.name.encode() + bytes(20_000))
    assert find_duplicates(files, 1) == []
