"""Read the paths of images as lines of text, for example on standard input.

A program that writes paths to a pipe waits while nobody reads, so no path is lost.
"""

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from queue import Empty, Full, Queue

from lit_ad.files import resolve_path
from lit_ad.line.feed import Arrival


class PathFeed:
    """The images whose paths are lines of text.

    Args:
        lines: The lines, for example sys.stdin. Empty lines are skipped.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self.passed_over, self.trouble = 0, ""
        self._next: Queue[str | None] = Queue(1)  # only one path, so that the others wait in the pipe
        self._closing = threading.Event()
        threading.Thread(target=self._work, args=(lines,), name="paths", daemon=True).start()

    def __iter__(self) -> Iterator[Arrival]:
        """Yield each image."""
        while not self._closing.is_set():
            try:
                name = self._next.get(timeout=0.1)
            except Empty:
                continue
            if name is None:
                return
            yield Arrival(name, resolve_path(Path(name)))

    def _work(self, lines: Iterable[str]) -> None:
        """Read lines until they end or `close` is called."""
        for line in lines:
            if name := line.rstrip("\r\n"):
                self._put(name)
            if self._closing.is_set():
                return
        self._put(None)

    def _put(self, name: str | None) -> None:
        while not self._closing.is_set():
            try:
                self._next.put(name, timeout=0.1)
                break
            except Full:
                pass

    def count_waiting(self) -> int:
        """Return 0: the paths wait in the pipe, where they cannot be counted."""
        return 0

    def try_again(self, arrival: Arrival) -> bool:
        """Return False: a program that sends a path has already written the file."""
        return False

    def close(self) -> None:
        """End the feed at once, even while it waits for a line."""
        self._closing.set()
