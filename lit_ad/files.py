"""Paths as users give them, files written whole or not at all, a run's directory, and where caches are kept."""

import argparse
import math
import os
import secrets
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from lit_ad.errors import UserError
from lit_ad.names import file_name
from lit_ad.threads import Pool


def resolve_path(path: str | os.PathLike[str], folder: Path = Path()) -> Path:
    """An absolute path without `~` and `..`, the same one from every directory; a relative path begins in `folder`.

    Links keep their names, since a data set's folder names its category; of a link before `..`, its target counts, as
    for the system. An unknown user's `~NAME` is a file name like any other.

    Raises:
        UserError: There is no home directory for `~`.
    """
    given = Path(file_name(os.fspath(path)))
    try:
        given = given.expanduser()
    except RuntimeError as error:
        if given.parts[0] == "~":
            raise UserError(f"{given}: there is no home directory; set HOME, or give the whole path") from error
    absolute = Path(folder, given).absolute()
    if ".." not in absolute.parts:
        return absolute
    behind = absolute.parts[::-1].index("..")  # parts behind the last `..`
    parts = len(absolute.parts) - behind
    return Path(*absolute.parts[:parts]).resolve().joinpath(*absolute.parts[parts:])


def resolve_paths(value: Any) -> Any:
    """The value with resolved paths: each Path in it, and each text that begins with `~`.

    It may be a list, a tuple, a dictionary or a namespace of the command line's parser, which is changed in place.
    """
    if isinstance(value, Path):
        return resolve_path(value)
    if isinstance(value, str):
        return str(resolve_path(value)) if value.startswith("~") else value
    if isinstance(value, list | tuple):
        return type(value)(map(resolve_paths, value))
    if isinstance(value, dict):
        return {key: resolve_paths(inner) for key, inner in value.items()}
    if isinstance(value, argparse.Namespace):
        vars(value).update(resolve_paths(vars(value)))
    return value


@contextmanager
def writing(path: Path, remedy: str = "") -> Iterator[None]:
    """Raises UserError that names the path, and the remedy, in place of an OSError of the block."""
    try:
        yield
    except OSError as error:
        reason = f"cannot write {path}: {error.strerror or error}"
        raise UserError(f"{reason}; {remedy}" if remedy else reason) from error


def check_writable(folder: Path, setting: str) -> None:
    """Write to a folder for a trial, before work is done whose result goes there; it is left as it was.

    Raises:
        UserError: No file can be written to it; the message names the setting that says where it is.
    """
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    with writing(folder, f"give another {setting}"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        finally:
            with suppress(OSError):  # another process has written to it
                for path in absent:
                    path.rmdir()


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """A folder, made with those above it where they are not there. Where the block fails, what was made goes again."""
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # something is in it
            for path in absent:
                path.rmdir()
        raise


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary name to write to, renamed to `path` when the block ends well and removed when it does not.

    Raises:
        UserError: It cannot be written; the message has the path.
    """
    # Short, since a name may be as long as a file system allows. Other machines may have a process of this number.
    temporary = path.with_name(f".{os.getpid()}.{secrets.token_hex(6)}.tmp")
    try:
        with new_folder(path.parent):
            try:
                yield temporary
                temporary.replace(path)
            finally:
                with suppress(OSError):  # it is not there
                    temporary.unlink()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from error


def free_path(path: Path) -> Path:
    """The path, or NAME-2, NAME-3 and so on of the same suffix: the first where nothing is."""
    names = (path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(1))
    return next(name for name in names if not name.exists())


class Writers:
    """Threads that write files beside the caller, who never waits for a disk or a codec unless they fall far behind.

    The caller does the first job (see `threads.Pool`). They end when all is written; another job begins others.

    Args:
        count: Of threads.
    """

    def __init__(self, count: int = min(4, os.cpu_count() or 1)) -> None:
        self.count = count
        self.pool: Pool | None = None
        self.waiting: deque[Future[None]] = deque()
        self.most = 4 * count  # jobs that wait: what they hold is all the memory it takes

    def submit(self, job: Callable[..., None], *arguments: Any) -> None:
        """Have `job(*arguments)` done. Raises what an earlier one raised."""
        while self.waiting and (len(self.waiting) >= self.most or self.waiting[0].done()):
            self.waiting.popleft().result()
        self.pool = self.pool or Pool(self.count, "writer")
        self.waiting.append(self.pool.submit(job, *arguments))

    def finish(self) -> None:
        """Wait until all is written. Raises what one of the jobs raised."""
        try:
            while self.waiting:
                self.waiting.popleft().result()
        finally:
            if self.pool is not None:
                self.pool.shutdown(cancel_futures=True)
            self.pool = None
            self.waiting.clear()

    def give_up(self) -> None:
        """Wait as `finish` does, where a run has failed: its exception is the one to tell."""
        with suppress(Exception):
            self.finish()


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


def cache_directory() -> Path:
    """Where caches are kept: $XDG_CACHE_HOME/lit_ad, ~/.cache/lit_ad on Linux, and what is usual on other systems.

    An account whose home directory is unknown or not to be written to, as `docker run --user 12345` makes one, has a
    folder of its own for temporary files instead.

    Raises:
        UserError: That folder belongs to another user, or cannot be made.
    """
    with suppress(RuntimeError):  # there is no home directory; older versions return "~/.cache/lit_ad" instead
        usual = _usual_cache()
        there = next((folder for folder in (usual, *usual.parents) if os.access(folder, os.F_OK)), usual)
        writable = os.environ.get("XDG_CACHE_HOME") or usual == there or os.access(there, os.W_OK)
        if usual.is_absolute() and writable:
            return usual
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir(), f"lit_ad-{user}")
    with writing(folder, "set XDG_CACHE_HOME to a folder that you can write to"):
        folder.mkdir(mode=0o700, exist_ok=True)
    if user and (folder.is_symlink() or folder.stat().st_uid != user):
        raise UserError(f"{folder} belongs to another user: set XDG_CACHE_HOME to a folder that you can write to")
    warnings.warn(f"no home directory to write to: caches are kept in {folder}, or in $XDG_CACHE_HOME", stacklevel=1)
    return folder


def _usual_cache() -> Path:
    """Where the system keeps caches. A device that only judges has no platformdirs: there, as on Linux.

    Raises:
        RuntimeError: There is no home directory.
    """
    try:
        from platformdirs import user_cache_path
    except ImportError:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "lit_ad")
    return user_cache_path("lit_ad", appauthor=False)


def format_bytes(size: int) -> str:
    """A number of bytes in words: KiB, MiB or GiB."""
    if size < 2**20:
        return f"{math.ceil(size / 2**10)} KiB"
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
