"""Yield the images of a folder that fills: each image once, when it is completely written.

The package watchdog reports new files. It reports nothing if another machine writes to a network drive, or if there are
more events than the system can hold. So the folder is also listed from time to time, and no file is missed.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue, SimpleQueue

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from lit_ad.errors import UserError
from lit_ad.image.pixels import EXTENSIONS
from lit_ad.line.feed import Arrival

_TICK = 0.05  # seconds between two looks at the files that are being written
LISTING_INTERVAL = 10.0  # least seconds between two listings of the folder; at least 20 times the time of a listing
_OPEN_FACTOR = 20  # a file that is known to be open must stay unchanged for this many times `settle`
RETRY_SECONDS = 30.0  # an unreadable file is tried again until it has been unchanged for this long
_REPORTS_CLOSE = sys.platform == "linux"  # whether the system reports that a file was closed, as inotify does

State = tuple[int, int]  # size in bytes, time of the last change in ns


@dataclass
class _Writing:
    """A file that may not be completely written yet."""

    state: State
    since: float  # time.monotonic() when this state was first seen
    opened: bool = False  # whether an event reported a write, so that another event will report the close
    closed: bool = False  # whether an event reported the close

    def update(self, kind: str) -> None:
        """Take an event into account: "changed" or "closed"."""
        if kind == "closed":
            self.closed = True
        elif kind == "changed":
            # After a close, a change (by chmod, for example) may come without another close.
            self.opened = not self.closed
            self.closed = False


class FolderFeed:
    """The images in a folder and its subfolders.

    Args:
        folder: An existing folder.
        settle: Seconds that a file must stay unchanged, if no event reports that it was closed.
        judged: judged(name, time) tells whether a file was judged at that time (in seconds since 1970) or later.
        new_only: Whether to skip the files that are in the folder now.

    Raises:
        UserError: The system cannot watch the folder.
    """

    def __init__(
        self,
        folder: Path,
        settle: float = 1.0,
        judged: Callable[[str, float], bool] = lambda name, changed: False,
        new_only: bool = False,
    ) -> None:
        self.folder, self.settle, self.judged = folder, settle, judged
        self.passed_over, self.trouble = 0, ""
        self.left_out = 0  # files of the listings that are skipped, or were judged before
        self._left = 0  # files that were ready when `close` was called
        self._events: SimpleQueue[tuple[str, str]] = SimpleQueue()  # path and kind: "changed", "closed" or "again"
        self._writing: dict[Path, _Writing] = {}
        self._done: dict[Path, State] = {}  # files that were yielded or skipped, about 200 bytes each
        self._ready: Queue[Path | None] = Queue()
        self._closing = threading.Event()
        self._observer = Observer()
        self._observer.schedule(Handler(self._events), str(folder), recursive=True)
        try:
            self._observer.start()
        except OSError as error:  # for example if there are more folders than inotify can watch
            raise UserError(f"{folder} cannot be watched ({error}): raise fs.inotify.max_user_watches") from error
        self._next_listing = time.monotonic()
        self._list(skip=new_only)
        self._thread = threading.Thread(target=self._work, name="folder", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Arrival]:
        """Yield each image when it is completely written."""
        while (path := self._ready.get()) is not None:
            if self._closing.is_set():
                self._left += 1
                continue
            yield Arrival(self._name_file(path), path)

    def count_waiting(self) -> int:
        """Return the number of images that are ready or being written; after `close`, that are left."""
        return self._ready.qsize() + len(self._writing) + self._left

    def try_again(self, arrival: Arrival) -> bool:
        """Queue an unreadable file again if it changed after it was yielded, or very recently. Return whether it was
        queued. After `close`, queue nothing."""
        assert arrival.file is not None
        state = _read_state(arrival.file)
        if state is None or self._closing.is_set():
            return False
        if state == self._done.get(arrival.file) and time.time() - state[1] / 1e9 > RETRY_SECONDS:
            return False
        self._events.put((str(arrival.file), "again"))
        return True

    def close(self) -> None:
        """End the feed, and stop watching."""
        self._closing.set()
        self._thread.join()

    def _work(self) -> None:
        """Handle events, list the folder and look at the files in writing, until `close` is called."""
        while not self._closing.is_set():
            try:
                name, kind = self._events.get(timeout=_TICK)
                self._handle(Path(name), kind)
                continue  # handle all events before looking at the files: events report closed files
            except Empty:
                pass
            if time.monotonic() >= self._next_listing:
                self._list()
            self._yield_complete_files()
        with suppress(Empty):  # handle the events that are left, so that `count_waiting` counts their files
            while True:
                name, kind = self._events.get_nowait()
                self._handle(Path(name), kind)
        self._observer.stop()
        self._observer.join()
        self._ready.put(None)

    def _handle(self, path: Path, kind: str) -> None:
        """Handle an event of a file: "changed", "closed", or "again" if it could not be read."""
        if kind == "again":
            self._done.pop(path, None)
        if is_image(path, self.folder) and (path in self._writing or self._follow(path)):
            self._writing[path].update(kind)

    def _follow(self, path: Path) -> bool:
        """Begin to wait for a file. Return False if it does not exist, or was yielded or skipped in this state."""
        state = _read_state(path)
        if state is None or self._done.get(path) == state:
            return False
        self._writing[path] = _Writing(state, time.monotonic())
        return True

    def _yield_complete_files(self) -> None:
        """Move the files that are completely written to the queue of ready files."""
        now = time.monotonic()
        for path, writing in list(self._writing.items()):
            state = _read_state(path)
            if state is None:
                del self._writing[path]
                continue
            if state != writing.state:
                writing.state, writing.since = state, now
            unchanged = now - writing.since
            needed = self.settle * (_OPEN_FACTOR if _REPORTS_CLOSE and writing.opened else 1)
            # A file is complete when it was closed, or has not changed for long enough. An empty file waits longer,
            # because its content may still come.
            if (state[0] or unchanged >= RETRY_SECONDS) and (writing.closed or unchanged >= needed):
                del self._writing[path]
                self._done[path] = state
                self._ready.put(path)

    def _list(self, skip: bool = False) -> None:
        """List the folder: follow files that no event reported, and forget files that were removed.

        With `skip`, all files of the listing are skipped.
        """
        begin, present, errors = time.monotonic(), set[Path](), list[OSError]()
        listed = os.walk(self.folder, onerror=errors.append)
        for path in sorted((Path(at, name) for at, _, names in listed for name in names), key=read_change_time):
            if is_image(path, self.folder):
                present.add(path)
                self._add_listed(path, skip)
        if not self.folder.is_dir():
            self.trouble = f"the folder {self.folder} was removed"
        elif errors:  # a folder in it may be closed to this user
            self.trouble = f"the folder {errors[0].filename} cannot be listed: {errors[0].strerror}"
        else:
            self.trouble = ""
            for path in self._done.keys() - present:
                del self._done[path]
        self._next_listing = begin + max(LISTING_INTERVAL, 20 * (time.monotonic() - begin))

    def _add_listed(self, path: Path, skip: bool) -> None:
        """Follow a file of the listing. Skip it with `skip`, or if it was judged in its present state before."""
        state = _read_state(path)
        if state is None or self._done.get(path) == state or path in self._writing:
            return
        if not skip and not self.judged(self._name_file(path), read_change_time(path)):
            self._follow(path)
            return
        self.left_out += 1
        self._done[path] = state

    def _name_file(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


class Handler(FileSystemEventHandler):
    """Puts events of files into a queue: "changed", or "closed" if a file was closed or moved into the folder."""

    def __init__(self, events: SimpleQueue[tuple[str, str]]) -> None:
        self.events = events

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Put an event into the queue. The observer's thread calls this."""
        if event.is_directory:
            return
        if event.event_type == "moved":
            self.events.put((str(event.dest_path), "closed"))
        elif event.event_type in ("created", "modified", "closed"):
            self.events.put((str(event.src_path), "closed" if event.event_type == "closed" else "changed"))


def is_image(path: Path, folder: Path) -> bool:
    """Whether a file in a folder has the suffix of an image and is not hidden. Hidden files may be temporary ones."""
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in EXTENSIONS and not hidden


def _read_state(path: Path) -> State | None:
    """Return a file's size in bytes and its time of change in ns. None: the file does not exist."""
    with suppress(OSError):
        if path.is_file():
            info = path.stat()
            return info.st_size, info.st_mtime_ns
    return None


def read_change_time(path: Path) -> float:
    """Return when a file was changed or moved to its place, in seconds since 1970. 0 if it does not exist."""
    with suppress(OSError):
        info = path.stat()
        return max(info.st_mtime, info.st_ctime)
    return 0.0
