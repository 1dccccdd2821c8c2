"""Paths of images, one a line, as on standard input. A pipe that is not read holds its writer up: nothing is lost."""

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from queue import Empty, Full, Queue

from lit_ad.files import resolve_path
from lit_ad.line.feed import Arrival


class PathFeed:
    """The images that lines of text name.

    Args:
        lines: Such as sys.stdin. Empty ones are passed over.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self.passed_over, self.trouble = 0, ""
        self._read: Queue[str | None] = Queue(1)  # one, so that the others wait in the pipe
        self._closing = threading.Event()
        threading.Thread(target=self._work, args=(lines,), name="paths", daemon=True).start()

    def __iter__(self) -> Iterator[Arrival]:
        """Yield each image."""
        while not self._closing.is_set():
            try:
                name = self._read.get(timeout=0.1)
            except Empty:
                continue
            if name is None:
                return
            yield Arrival(name, resolve_path(Path(name)))

    def _work(self, lines: Iterable[str]) -> None:
        for line in lines:
            if name := line.rstrip("\r\n"):
                self._put(name)
            if self._closing.is_set():
                return
        self._put(None)

    def _put(self, name: str | None) -> None:
        while not self._closing.is_set():
            try:
                self._read.put(name, timeout=0.1)
                break
            except Full:
                pass

    def waiting(self) -> int:
        """None that are known: they wait in the pipe."""
        return 0

    def comes_again(self, arrival: Arrival) -> bool:
        """Never: who names a file has written it."""
        return False

    def close(self) -> None:
        """End at once, also where no line comes."""
        self._closing.set()
