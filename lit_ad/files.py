"""Files written whole or not at all, a run's directory, and where caches are kept."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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


class Writers:
    """Threads that write files beside the caller, who never waits for a disk or a codec unless they fall far behind.

    They begin with the first job, and end when all is written; another job begins others.

    Args:
        count: Of threads.
    """

    def __init__(self, count: int = min(4, os.cpu_count() or 1)) -> None:
        self.count = count
        self.pool: ThreadPoolExecutor | None = None
        self.waiting: deque[Future[None]] = deque()
        self.most = 4 * count  # jobs that wait: what they hold is all the memory it takes

    def submit(self, job: Callable[..., None], *arguments: Any) -> None:
        """Have `job(*arguments)` done. Raises what an earlier one raised."""
        while self.waiting and (len(self.waiting) >= self.most or self.waiting[0].done()):
            self.waiting.popleft().result()
        self.pool = self.pool or ThreadPoolExecutor(self.count, thread_name_prefix="writer")
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
    """$XDG_CACHE_HOME/lit_ad, which is ~/.cache/lit_ad if that is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lit_ad"


def format_bytes(size: int) -> str:
    """A number of bytes in words: KiB, MiB or GiB."""
    if size < 2**20:
        return f"{math.ceil(size / 2**10)} KiB"
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
