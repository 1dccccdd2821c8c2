"""Resolve paths, write files whole or not at all, and find the cache directory."""

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
    """Return an absolute path without `~` and `..`. A relative path begins in `folder`.

    Links keep their names, because the folder of a data set names its category. A link before `..` is replaced by its
    target, as the system does. `~NAME` of an unknown user is a file name like any other.

    Raises:
        UserError: There is no home directory for `~`.
    """
    expanded = Path(file_name(os.fspath(path)))
    try:
        expanded = expanded.expanduser()
    except RuntimeError as error:
        if expanded.parts[0] == "~":
            raise UserError(f"{expanded}: there is no home directory; set HOME, or give the whole path") from error
    absolute = Path(folder, expanded).absolute()
    if ".." not in absolute.parts:
        return absolute
    after = absolute.parts[::-1].index("..")  # the number of parts after the last `..`
    parts = len(absolute.parts) - after
    return Path(*absolute.parts[:parts]).resolve().joinpath(*absolute.parts[parts:])


def resolve_paths(value: Any) -> Any:
    """Return a value in which each Path, and each text that begins with `~`, is resolved.

    The value may be a list, a tuple, a dictionary, or a namespace of the parser, which is changed in place.
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
def explain_write_errors(path: Path, remedy: str = "") -> Iterator[None]:
    """Raise UserError, which names the path and the remedy, in place of an OSError in the block."""
    try:
        yield
    except OSError as error:
        reason = f"cannot write {path}: {error.strerror or error}"
        raise UserError(f"{reason}; {remedy}" if remedy else reason) from error


def check_writable(folder: Path, setting: str) -> None:
    """Try to write to a folder, before long work whose result goes there. The folder is left as it was.

    Args:
        folder: The folder, which may not exist yet.
        setting: The key or option that names the folder, for the message.

    Raises:
        UserError: No file can be written to it.
    """
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    with explain_write_errors(folder, f"give another {setting}"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        finally:
            with suppress(OSError):  # it is not empty: another process has written to it
                for path in absent:
                    path.rmdir()


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Create a folder and its parents if they are missing. If the block fails, remove those that were created."""
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # a folder is not empty
            for path in absent:
                path.rmdir()
        raise


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary file to write to. It is renamed to `path` if the block succeeds, and removed if it fails.

    Raises:
        UserError: The file cannot be written; the message has the path.
    """
    # The temporary name is short, because `path` may have the longest name that the file system allows. It has random
    # characters, because a process on another machine may have the same number.
    temporary = path.with_name(f".{os.getpid()}.{secrets.token_hex(6)}.tmp")
    try:
        with new_folder(path.parent):
            try:
                yield temporary
                temporary.replace(path)
            finally:
                with suppress(OSError):  # it does not exist any more
                    temporary.unlink()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from error


def find_free_path(path: Path) -> Path:
    """Return the first path that does not exist among `path`, NAME-2, NAME-3 and so on, with the same suffix."""
    names = (path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(1))
    return next(name for name in names if not name.exists())


class Writers:
    """Threads that write files, so that the caller waits for a disk or a codec only if they fall far behind.

    The caller's thread does the first job (see `threads.Pool`). `finish` ends the threads; a later job starts new ones.

    Args:
        count: How many threads there are.
    """

    def __init__(self, count: int = min(4, os.cpu_count() or 1)) -> None:
        self.count = count
        self.pool: Pool | None = None
        self.waiting: deque[Future[None]] = deque()
        self.most = 4 * count  # the most jobs that wait: their arguments take memory

    def submit(self, job: Callable[..., None], *arguments: Any) -> None:
        """Let a thread call `job(*arguments)`. Raises the exception of an earlier job, if one failed."""
        while self.waiting and (len(self.waiting) >= self.most or self.waiting[0].done()):
            self.waiting.popleft().result()
        self.pool = self.pool or Pool(self.count, "writer")
        self.waiting.append(self.pool.submit(job, *arguments))

    def finish(self) -> None:
        """Wait until all jobs are done. Raises the exception of a job, if one failed."""
        try:
            while self.waiting:
                self.waiting.popleft().result()
        finally:
            if self.pool is not None:
                self.pool.shutdown(cancel_futures=True)
            self.pool = None
            self.waiting.clear()

    def give_up(self) -> None:
        """Wait until all jobs are done, after the run has failed. The exceptions of jobs are dropped, because the
        exception of the run is raised."""
        with suppress(Exception):
            self.finish()


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, on systems where folders can be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def run_directory(trainer: Any) -> Path:
    """Return the run directory, the same on every process. Every process must call this."""
    return Path(trainer.strategy.broadcast(trainer.default_root_dir))


def cache_directory() -> Path:
    """Return the cache directory: $XDG_CACHE_HOME/lit_ad, or ~/.cache/lit_ad on Linux, or the usual one elsewhere.

    If the home directory is unknown or cannot be written to, as after `docker run --user 12345`, it is a folder of the
    user's own among the temporary files, and there is a warning.

    Raises:
        UserError: That folder belongs to another user, or cannot be created.
    """
    with suppress(RuntimeError):  # no home directory; older versions of platformdirs return "~/.cache/lit_ad" instead
        usual = _usual_cache()
        existing = next((folder for folder in (usual, *usual.parents) if os.access(folder, os.F_OK)), usual)
        writable = os.environ.get("XDG_CACHE_HOME") or usual == existing or os.access(existing, os.W_OK)
        if usual.is_absolute() and writable:
            return usual
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir(), f"lit_ad-{user}")
    with explain_write_errors(folder, "set XDG_CACHE_HOME to a folder that you can write to"):
        folder.mkdir(mode=0o700, exist_ok=True)
    if user and (folder.is_symlink() or folder.stat().st_uid != user):
        raise UserError(f"{folder} belongs to another user: set XDG_CACHE_HOME to a folder that you can write to")
    warnings.warn(f"no home directory to write to: caches are kept in {folder}, or in $XDG_CACHE_HOME", stacklevel=1)
    return folder


def _usual_cache() -> Path:
    """Return the directory in which the system keeps caches. Without the package platformdirs, it is that of Linux.

    Raises:
        RuntimeError: There is no home directory.
    """
    try:
        from platformdirs import user_cache_path
    except ImportError:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "lit_ad")
    return user_cache_path("lit_ad", appauthor=False)


def format_bytes(size: int) -> str:
    """Return a number of bytes as text, in KiB, MiB or GiB."""
    if size < 2**20:
        return f"{math.ceil(size / 2**10)} KiB"
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
