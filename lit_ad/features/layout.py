"""Files of a feature store. This module imports neither torch nor timm, so that `lit-ad cache` starts at once.

A store is a folder DIRECTORY/KEY. It holds a NumPy file for each tap; about.json, which describes the features; and
runs.json, which lists the runs that used the store, the latest last. The folder is called KEY.partial until it is
complete. Its writer holds the lock KEY.lock, which the system releases if the process dies.
"""

import getpass
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lit_ad.errors import UserError
from lit_ad.files import atomic_write
from lit_ad.image.pixels import split_page
from lit_ad.names import file_name

KEY_LENGTH = 24  # hexadecimal digits of a SHA-256
_PARTIAL = ".partial"
RUNS = 1000  # most runs that runs.json lists
DTYPES = ("float16", "bfloat16", "float32")


def is_key(name: str) -> bool:
    """Return whether a folder of this name can be a store. `lit-ad cache` removes no other folder."""
    return len(name) == KEY_LENGTH and set(name) <= set("0123456789abcdef")


def about_file(store: Path) -> Path:
    return store / "about.json"


def tap_file(store: Path, tap: int) -> Path:
    return store / f"tap{tap}.npy"


def partial_folder(store: Path) -> Path:
    """Return the folder of a store while it is written."""
    return store.with_name(f"{store.name}{_PARTIAL}")


def lock_file(store: Path) -> Path:
    """Return the file of the lock that a store's writer holds, for the complete or the partial folder."""
    return store.with_name(f"{store.name.removesuffix(_PARTIAL)}.lock")


def list_stores(directory: Path) -> list[Path]:
    """Return all stores in a directory, complete or partial: none if the directory does not exist."""
    folders = (path for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else ()
    return sorted(path for path in folders if is_key(path.name.removesuffix(_PARTIAL)))


def is_partial(store: Path) -> bool:
    return store.name.endswith(_PARTIAL)


def is_being_written(store: Path) -> bool:
    """Return whether a process holds the lock of a store."""
    lock = lock_file(store)
    if not lock.is_file():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def read_about(store: Path) -> dict[str, Any]:
    """Return the content of a store's about.json, or an empty dict if it cannot be read."""
    try:
        about = json.loads(about_file(store).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def runs_file(store: Path) -> Path:
    return store / "runs.json"


def add_run(store: Path, run: Path) -> None:
    """Add a run, its directory and user, to a store's runs.json. A store that is read-only stays unchanged."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # the account has no name
        user = ""
    entry = [str(run.absolute()), user]
    with suppress(OSError, UserError, Timeout), FileLock(lock_file(store), timeout=10):  # other runs may write, too
        runs = [entry, *(earlier for earlier in reversed(read_runs(store)) if earlier != entry)][:RUNS]
        with atomic_write(runs_file(store)) as temporary:
            temporary.write_text(json.dumps(runs[::-1]), encoding="utf-8")


def read_runs(store: Path) -> list[list[str]]:
    """Return [directory, user] of each run that used a store, the latest last; none if runs.json cannot be read."""
    try:
        runs = json.loads(runs_file(store).read_text(encoding="utf-8"))
        return [[str(directory), str(user)] for directory, user in runs]
    except (OSError, ValueError, TypeError):
        return []


def is_changed(image: str, size: int, modified: int) -> bool:
    """Return whether an image file is missing, or has another size (bytes) or modification time (ns) than recorded."""
    try:
        now = split_page(Path(file_name(image)))[0].stat()
    except OSError:
        return True
    return (now.st_size, now.st_mtime_ns) != (size, modified)


def store_bytes(store: Path) -> int:
    """Return the bytes of a store's files."""
    size = 0
    for file in store.iterdir() if store.is_dir() else ():
        with suppress(OSError):  # another process may remove the file meanwhile
            size += file.stat().st_size
    return size


def bytes_used(directory: Path) -> int:
    """Return the bytes of all stores in a directory, including partial ones."""
    return sum(store_bytes(store) for store in list_stores(directory))


def remove_store(store: Path) -> None:
    """Remove a store. about.json goes last, so that an interrupted removal leaves a folder that can be described.

    Raises:
        UserError: A file cannot be removed.
    """
    try:
        for path in sorted(store.iterdir(), key=lambda path: path == about_file(store)):
            path.unlink()
        shutil.rmtree(store)
        if not is_being_written(store):
            lock_file(store).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot remove {store}: {error.strerror}") from error
