"""The images of a folder that fills: each is given once, when it is written to its end.

watchdog tells of new files. Where no event comes, as from other machines' writes to a network drive, or where there
were more events than the system keeps, the folder is listed again: no file is passed over in silence.
"""

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

_TICK = 0.05  # seconds
LISTED = 10.0  # seconds from one listing of the folder to the next, and 20 times what a listing takes
_OPEN_TIMES = 20  # times `settle` for which a file that is known to be open must not change
PATIENCE = 30.0  # seconds since its last change for which a file that cannot be read is tried again
_TELLS_CLOSE = sys.platform == "linux"  # inotify tells that a file was closed

State = tuple[int, int]  # size in bytes, time of the last change in ns


@dataclass
class _Writing:
    """A file that may still be written to."""

    state: State
    since: float  # when this state was first seen
    opened: bool = False  # whether an event told that it is being written, so that another one will tell its end
    closed: bool = False

    def heed(self, kind: str) -> None:
        """Take an event into account: changed or closed."""
        if kind == "closed":
            self.closed = True
        elif kind == "changed":
            self.opened = not self.closed  # what changes after its end, as by chmod, may be closed for good
            self.closed = False


class FolderFeed:
    """The images below a folder.

    Args:
        folder: It is there, and stays.
        settle: Seconds for which a file must not change, where nothing says that it was closed.
        judged: Whether a file of that name, as it was at that time (seconds since 1970), was judged before.
        new_only: Whether the files that are there now are passed over.
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
        self.at_start = 0  # files that were there, and are not given
        self._left = 0  # files that were ready when `close` was called
        self._events: SimpleQueue[tuple[str, str]] = SimpleQueue()
        self._writing: dict[Path, _Writing] = {}
        self._given: dict[Path, State] = {}  # of the files that are there: some 200 bytes each
        self._ready: Queue[Path | None] = Queue()
        self._closing = threading.Event()
        self._observer = Observer()
        self._observer.schedule(Handler(self._events), str(folder), recursive=True)
        try:
            self._observer.start()
        except OSError as error:  # as where there are more folders than inotify watches
            raise UserError(f"{folder} cannot be watched ({error}): raise fs.inotify.max_user_watches") from error
        self._next_listing = time.monotonic()
        self._list(take=not new_only)
        self._thread = threading.Thread(target=self._work, name="folder", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Arrival]:
        """Yield each image when it is written."""
        while (path := self._ready.get()) is not None:
            if self._closing.is_set():
                self._left += 1
                continue
            yield Arrival(self._name(path), path)

    def waiting(self) -> int:
        """Images that are ready, or being written; after the end, those that were."""
        return self._ready.qsize() + len(self._writing) + self._left

    def comes_again(self, arrival: Arrival) -> bool:
        """Whether the file has changed since it was given, or has changed so lately that it may go on."""
        assert arrival.file is not None
        state = _state_of(arrival.file)
        if state is None or self._closing.is_set():
            return False
        if state == self._given.get(arrival.file) and time.time() - state[1] / 1e9 > PATIENCE:
            return False
        self._events.put((str(arrival.file), "again"))
        return True

    def close(self) -> None:
        """End."""
        self._closing.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._closing.is_set():
            try:
                name, kind = self._events.get(timeout=_TICK)
                self._heed(Path(name), kind)
                continue  # all events first: they say what is closed
            except Empty:
                pass
            if time.monotonic() >= self._next_listing:
                self._list(take=True)
            self._settle()
        with suppress(Empty):  # so that `waiting` counts them
            while True:
                name, kind = self._events.get_nowait()
                self._heed(Path(name), kind)
        self._observer.stop()
        self._observer.join()
        self._ready.put(None)

    def _heed(self, path: Path, kind: str) -> None:
        """Take an event into account: changed, closed, or again, where it could not be read."""
        if kind == "again":
            self._given.pop(path, None)
        if is_image(path, self.folder) and (path in self._writing or self._note(path)):
            self._writing[path].heed(kind)

    def _note(self, path: Path) -> bool:
        """Follow a file from now on. False: it is not there, or was given as it is."""
        state = _state_of(path)
        if state is None or self._given.get(path) == state:
            return False
        self._writing[path] = _Writing(state, time.monotonic())
        return True

    def _settle(self) -> None:
        """Give the files that are written to their end."""
        now = time.monotonic()
        for path, writing in list(self._writing.items()):
            state = _state_of(path)
            if state is None:
                del self._writing[path]
                continue
            if state != writing.state:
                writing.state, writing.since = state, now
            still = now - writing.since
            needed = self.settle * (_OPEN_TIMES if _TELLS_CLOSE and writing.opened else 1)
            if (state[0] or still >= PATIENCE) and (writing.closed or still >= needed):
                del self._writing[path]
                self._give(path, state)

    def _give(self, path: Path, state: State) -> None:
        self._given[path] = state
        self._ready.put(path)

    def _list(self, take: bool) -> None:
        """Look for files that no event told of, and forget those that are gone. `take`: else all that are there count
        as given."""
        begin, there = time.monotonic(), set[Path]()
        try:
            for path in sorted(self.folder.rglob("*"), key=changed):
                if is_image(path, self.folder):
                    there.add(path)
                    self._meet(path, take)
            self.trouble = "" if self.folder.is_dir() else f"the folder {self.folder} is gone"
        except OSError as error:
            self.trouble = f"the folder cannot be listed: {error}"
        else:
            for path in self._given.keys() - there:
                del self._given[path]
        self._next_listing = begin + max(LISTED, 20 * (time.monotonic() - begin))

    def _meet(self, path: Path, take: bool) -> None:
        """Follow a file of the listing, unless it was given or judged as it is."""
        state = _state_of(path)
        if state is None or self._given.get(path) == state or path in self._writing:
            return
        if not take:
            self.at_start += 1
        elif not self.judged(self._name(path), changed(path)):
            self._note(path)
            return
        self._given[path] = state

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


class Handler(FileSystemEventHandler):
    """Hands on which files changed, and which were closed or moved into place."""

    def __init__(self, events: SimpleQueue[tuple[str, str]]) -> None:
        self.events = events

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Take an event of the observer's thread."""
        if event.is_directory:
            return
        if event.event_type == "moved":
            self.events.put((str(event.dest_path), "closed"))
        elif event.event_type in ("created", "modified", "closed"):
            self.events.put((str(event.src_path), "closed" if event.event_type == "closed" else "changed"))


def is_image(path: Path, folder: Path) -> bool:
    """Whether a file in a folder has the suffix of an image, and is not hidden, as files are that are renamed later."""
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in EXTENSIONS and not hidden


def _state_of(path: Path) -> State | None:
    """A file's size and time of change. None: there is no file."""
    with suppress(OSError):
        if path.is_file():
            info = path.stat()
            return info.st_size, info.st_mtime_ns
    return None


def changed(path: Path) -> float:
    """When a file was changed or moved to where it is, in seconds since 1970; 0 of what is not there."""
    with suppress(OSError):
        info = path.stat()
        return max(info.st_mtime, info.st_ctime)
    return 0.0
