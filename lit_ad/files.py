"""Files written whole or not at all, a run's directory, and where caches are kept."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lit_ad.errors import UserError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary name to write to, renamed to `path` when the block ends well and removed when it does not.

    Raises:
        UserError: It cannot be written; the message has the path.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from error
    finally:
        with suppress(OSError):  # it is not there; or its folder is none, which the error above says
            temporary.unlink()


def sync_folder(folder: Path) -> None:
    """See a folder's entries on disk, where folders can be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def run_directory(trainer: Any) -> Path:
    """The run's directory, the same on every process (call it on all of them)."""
    return Path(trainer.strategy.broadcast(trainer.default_root_dir))


def free_directory(wanted: Path, used: str) -> Path:
    """`wanted`, or that name with a number, where no file `used` lies yet."""
    number = 1
    while True:
        home = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        if not (home / used).exists():
            return home
        number += 1


def cache_directory() -> Path:
    """$XDG_CACHE_HOME/lit_ad, which is ~/.cache/lit_ad if that is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lit_ad"
