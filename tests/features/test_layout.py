"""The layout of feature stores on disk. The tests do not use the code that writes stores."""

import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from lit_ad.errors import UserError
from lit_ad.features.layout import (
    about_file,
    add_run,
    bytes_used,
    is_being_written,
    is_changed,
    is_key,
    is_partial,
    list_stores,
    lock_file,
    partial_folder,
    read_about,
    read_runs,
    remove_store,
    runs_file,
    tap_file,
)

KEY = "0123456789abcdef01234567"


def make_store(store: Path, size: int = 100) -> Path:
    store.mkdir(parents=True)
    tap_file(store, 0).write_bytes(bytes(size))
    about_file(store).write_text('{"count": 3}')
    return store


def test_the_names_of_files_and_folders_follow_from_the_key() -> None:
    store = Path("caches", KEY)
    assert is_key(KEY) and not any(is_key(name) for name in (KEY[1:], KEY + "0", KEY.upper(), "photographs"))
    assert partial_folder(store) == Path("caches", f"{KEY}.partial")
    assert is_partial(partial_folder(store)) and not is_partial(store)
    assert lock_file(store) == lock_file(partial_folder(store)) == Path("caches", f"{KEY}.lock")


def test_only_stores_are_listed_and_measured(tmp_path: Path) -> None:
    whole, half = make_store(tmp_path / KEY), make_store(tmp_path / f"{KEY[::-1]}.partial")
    for other in (f"{KEY}.bak", "photographs", "model.partial"):
        make_store(tmp_path / other)
    (tmp_path / KEY.replace("0", "f")).touch()  # a file with the name of a store
    assert list_stores(tmp_path) == sorted([whole, half]) and list_stores(tmp_path / "absent") == []
    assert bytes_used(tmp_path) == 2 * (100 + len('{"count": 3}')) and bytes_used(tmp_path / "absent") == 0


def test_a_store_lists_the_runs_that_used_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path / KEY)
    assert read_runs(store) == []
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    monkeypatch.chdir(tmp_path)
    for run in ("one", "two", "one"):
        add_run(store, Path(run))
    # The latest run comes last.
    assert read_runs(store) == [[str(tmp_path / "two"), "ada"], [str(tmp_path / "one"), "ada"]]
    for text in ("", "{", "[1]", '{"a": 1}'):  # another program changed the file, so the file is written again
        runs_file(store).write_text(text)
        assert read_runs(store) == []
    add_run(store, Path("three"))
    assert read_runs(store) == [[str(tmp_path / "three"), "ada"]]
    before = sorted(store.iterdir())
    monkeypatch.setattr("lit_ad.features.layout.atomic_write", refuse)
    add_run(store, Path("four"))  # the store belongs to another user and is read-only: the training goes on
    assert read_runs(store) == [[str(tmp_path / "three"), "ada"]] and sorted(store.iterdir()) == before
    remove_store(store)
    assert list(tmp_path.iterdir()) == []


def test_an_account_without_a_name_uses_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may run as a number that /etc/passwd does not have."""

    def find_no_user() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    store = make_store(tmp_path / KEY)
    monkeypatch.setattr("getpass.getuser", find_no_user)
    add_run(store, tmp_path / "one")
    assert read_runs(store) == [[str(tmp_path / "one"), ""]]


def refuse(path: Path) -> None:
    raise PermissionError(path)


@pytest.mark.parametrize("text", [None, "", "{", "[1]", "\xff"])
def test_an_unreadable_description_of_a_store_is_empty(tmp_path: Path, text: str | None) -> None:
    store = make_store(tmp_path / KEY)
    assert read_about(store) == {"count": 3}
    about_file(store).unlink()
    if text is not None:
        about_file(store).write_text(text, encoding="latin-1")
    assert read_about(store) == {}


def test_a_store_is_being_written_while_its_lock_is_held(tmp_path: Path) -> None:
    half = make_store(partial_folder(tmp_path / KEY))
    assert not is_being_written(half)
    code = f"from lit_ad.features.layout import *; print(is_being_written(Path({str(half)!r})))"
    with FileLock(lock_file(half)):  # a lock belongs to a process, so another process must ask
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
    assert not is_being_written(half)


def test_removing_a_store_removes_its_lock_too(tmp_path: Path) -> None:
    store, other = make_store(tmp_path / KEY), make_store(tmp_path / KEY[::-1])
    lock_file(store).touch()
    remove_store(store)
    assert list(tmp_path.iterdir()) == [other]
    with pytest.raises(UserError, match=f"cannot remove {store}: No such file"):
        remove_store(store)


def test_an_image_is_changed_if_size_or_time_of_its_file_differ(tmp_path: Path) -> None:
    """A page has the time of its file."""
    file = tmp_path / "stack.tif"
    file.write_bytes(b"1")
    modified = file.stat().st_mtime_ns
    for name in (str(file), f"{file}#2"):
        assert not is_changed(name, 1, modified)
        assert is_changed(name, 2, modified) and is_changed(name, 1, modified + 1)
    file.unlink()
    assert is_changed(str(file), 1, modified)


def test_the_layout_imports_neither_torch_nor_timm() -> None:
    code = "import sys, lit_ad.features.layout; print([name for name in ('torch', 'timm') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
