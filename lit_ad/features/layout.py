"""How feature stores lie on disk. It imports neither torch nor timm, so that `lit-ad cache` starts at once.

A store is a folder DIRECTORY/KEY with a NumPy file for each tap, and about.json, which says what the features are of.
runs.json says which runs it has served, the latest last, so that a person knows whose features they are. The store is
called KEY.partial until it is complete. Whoever writes it holds KEY.lock, which the system takes back from a process
that dies.
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
RUNS = 1000  # that runs.json names
DTYPES = ("float16", "bfloat16", "float32")


def is_key(name: str) -> bool:
    """Whether a folder of this name can be a store: no other folder is ever removed."""
    return len(name) == KEY_LENGTH and set(name) <= set("0123456789abcdef")


def about_file(store: Path) -> Path:
    return store / "about.json"


def tap_file(store: Path, tap: int) -> Path:
    return store / f"tap{tap}.npy"


def partial_folder(store: Path) -> Path:
    """Where a store is written until it is complete."""
    return store.with_name(f"{store.name}{_PARTIAL}")


def lock_file(store: Path) -> Path:
    """The lock that the writer of a store holds, whether the store is complete or partial."""
    return store.with_name(f"{store.name.removesuffix(_PARTIAL)}.lock")


def list_stores(directory: Path) -> list[Path]:
    """All stores in a directory, complete or partial. An absent directory has none."""
    folders = (path for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else ()
    return sorted(path for path in folders if is_key(path.name.removesuffix(_PARTIAL)))


def is_partial(store: Path) -> bool:
    return store.name.endswith(_PARTIAL)


def is_being_written(store: Path) -> bool:
    """Whether a process holds the lock of a store."""
    lock = lock_file(store)
    if not lock.is_file():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def read_about(store: Path) -> dict[str, Any]:
    """What a store's about.json says; an empty dict if it cannot be read."""
    try:
        about = json.loads(about_file(store).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def runs_file(store: Path) -> Path:
    return store / "runs.json"


def add_run(store: Path, run: Path) -> None:
    """Write down that a store has served a run, of a directory and a user. Nothing where it is only to be read."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # of an account without a name
        user = ""
    entry = [str(run.absolute()), user]
    with suppress(OSError, UserError, Timeout), FileLock(lock_file(store), timeout=10):  # others may add theirs
        runs = [entry, *(earlier for earlier in reversed(read_runs(store)) if earlier != entry)][:RUNS]
        with atomic_write(runs_file(store)) as temporary:
            temporary.write_text(json.dumps(runs[::-1]), encoding="utf-8")


def read_runs(store: Path) -> list[list[str]]:
    """Directory and user of the runs that a store has served, the latest last; none where that cannot be read."""
    try:
        runs = json.loads(runs_file(store).read_text(encoding="utf-8"))
        return [[str(directory), str(user)] for directory, user in runs]
    except (OSError, ValueError, TypeError):
        return []


def is_changed(image: str, size: int, modified: int) -> bool:
    """Whether an image file is gone, or has another size (bytes) or time of modification (ns) than a store says."""
    try:
        now = split_page(Path(file_name(image)))[0].stat()
    except OSError:
        return True
    return (now.st_size, now.st_mtime_ns) != (size, modified)


def store_bytes(store: Path) -> int:
    """Bytes of the files of a store."""
    size = 0
    for file in store.iterdir() if store.is_dir() else ():
        with suppress(OSError):  # another process has just removed it
            size += file.stat().st_size
    return size


def bytes_used(directory: Path) -> int:
    """Bytes of all stores in a directory, partial ones as well."""
    return sum(store_bytes(store) for store in list_stores(directory))


def remove_store(store: Path) -> None:
    """Remove a store, its about.json last, so that what an interruption leaves can still be told.

    Raises:
        UserError: It cannot be removed.
    """
    try:
        for path in sorted(store.iterdir(), key=lambda path: path == about_file(store)):
            path.unlink()
        shutil.rmtree(store)
        if not is_being_written(store):
            lock_file(store).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot remove {store}: {error.strerror}") from error
