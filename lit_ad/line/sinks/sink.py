"""A sink of messages, and one that delivers them by a thread of its own, so that no receiver holds the judging up."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import SplitResult

MOST = 1000  # messages that wait; the oldest is dropped for a new one
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds until a delivery is tried again
PATIENCE = 10.0  # seconds that the end waits for what is still to be delivered


class Sink(Protocol):
    """Takes messages, each a JSON object in one line."""

    def send(self, text: str) -> None:
        """Have a message delivered. Raises nothing: what cannot be delivered is counted."""

    def close(self) -> None:
        """Deliver what waits, within PATIENCE."""

    def status(self) -> dict[str, Any]:
        """How many were sent, dropped and are waiting, and what is wrong now, as plain values for JSON."""


class Failed(Exception):
    """A delivery that failed, in one sentence.

    Args:
        reason: The sentence.
        again: Whether it may go well later.
    """

    def __init__(self, reason: str, again: bool = True) -> None:
        super().__init__(reason)
        self.again = again


class Outbox:
    """Delivers messages in their order, each until it is delivered, or refused for good.

    Args:
        deliver: Delivers one. Raises Failed. It is called by one thread.
        most: Messages that wait.
    """

    def __init__(self, deliver: Callable[[str], None], most: int = MOST) -> None:
        self.deliver, self.most = deliver, most
        self.sent = self.dropped = 0
        self.trouble = ""
        self._waiting: deque[str] = deque()
        self._busy, self._end = False, float("inf")
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
        self._thread.start()

    def send(self, text: str) -> None:
        """Have a message delivered; where as many wait as may, the oldest is dropped."""
        with self._changed:
            if len(self._waiting) >= self.most:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(text)
            self._changed.notify_all()

    def close(self) -> None:
        """Deliver what waits, within PATIENCE; the rest is dropped."""
        with self._changed:
            self._end = time.monotonic() + PATIENCE
            self._changed.notify_all()
        self._thread.join(PATIENCE + 15)
        with self._changed:
            self.dropped += len(self._waiting) + self._busy
            self._waiting.clear()

    def status(self) -> dict[str, Any]:
        """As `Sink` says."""
        waiting = len(self._waiting) + self._busy
        return {"sent": self.sent, "dropped": self.dropped, "waiting": waiting, "trouble": self.trouble or None}

    @property
    def ended(self) -> bool:
        """Whether the time of `close` is over."""
        return time.monotonic() >= self._end

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._end < float("inf"):
                        return
                    self._changed.wait()
                text, self._busy = self._waiting.popleft(), True
            done = self._try(text)
            with self._changed:
                if not done:
                    return  # `close` counts it
                self._busy = False

    def _try(self, text: str) -> bool:
        """Deliver a message. False: the time is over."""
        pause = FIRST_PAUSE
        while True:
            try:
                self.deliver(text)
            except Failed as error:
                self.trouble = str(error)
                if not error.again:
                    self.dropped += 1
                    return True
            else:
                self.sent, self.trouble = self.sent + 1, ""
                return True
            with self._changed:
                self._changed.wait(max(0.0, min(pause, self._end - time.monotonic())))
            if self.ended:
                return False
            pause = min(2 * pause, LONGEST_PAUSE)


def has_port(address: SplitResult) -> bool:
    """Whether the port of an address is none, or one that there is."""
    try:
        return address.port != 0
    except ValueError:  # a word, or above 65535
        return False
