"""The interface of a sink, and the base of sinks with a delivery thread, so that judging waits for no receiver."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import SplitResult

_MAX_WAITING = 1000  # messages in the queue; for a new message, the oldest is dropped
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between two attempts to deliver a message
CLOSE_SECONDS = 10.0  # `close` waits this long for the delivery of waiting messages


class Sink(Protocol):
    """Receives messages, each a JSON object in one line."""

    def send(self, text: str) -> None:
        """Accept a message for delivery. Raises nothing: messages that cannot be delivered are counted."""

    def close(self) -> None:
        """Deliver the waiting messages for up to CLOSE_SECONDS, and drop the rest."""

    def status(self) -> dict[str, Any]:
        """Return the numbers of sent, dropped and waiting messages, and the present trouble, for JSON."""


class DeliveryError(Exception):
    """A message could not be delivered.

    Args:
        reason: Why, in one sentence.
        retry: Whether another attempt may succeed.
    """

    def __init__(self, reason: str, retry: bool = True) -> None:
        super().__init__(reason)
        self.retry = retry


class Outbox:
    """Delivers messages in order, by a thread. It tries each message until it is delivered or refused.

    Args:
        deliver: Delivers one message, or raises DeliveryError. Only the thread calls it.
        most: The most messages in the queue.
    """

    def __init__(self, deliver: Callable[[str], None], most: int = _MAX_WAITING) -> None:
        self.deliver, self.most = deliver, most
        self.sent = self.dropped = 0
        self.trouble = ""
        self._waiting: deque[str] = deque()
        self._busy, self._end = False, float("inf")
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
        self._thread.start()

    def send(self, text: str) -> None:
        """Put a message into the queue. If the queue is full, drop its oldest message."""
        with self._changed:
            if len(self._waiting) >= self.most:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(text)
            self._changed.notify_all()

    def close(self) -> None:
        """Deliver the waiting messages for up to CLOSE_SECONDS, and drop the rest."""
        with self._changed:
            self._end = time.monotonic() + CLOSE_SECONDS
            self._changed.notify_all()
        # The last attempt of a webhook may take 15 seconds more: 5 to connect, 10 for the answer.
        self._thread.join(CLOSE_SECONDS + 15)
        with self._changed:
            self.dropped += len(self._waiting) + self._busy
            self._waiting.clear()

    def status(self) -> dict[str, Any]:
        """Return counts and trouble: see `Sink.status`."""
        waiting = len(self._waiting) + self._busy
        return {"sent": self.sent, "dropped": self.dropped, "waiting": waiting, "trouble": self.trouble or None}

    @property
    def ended(self) -> bool:
        """Whether `close` was called and its time is over."""
        return time.monotonic() >= self._end

    def _work(self) -> None:
        """Deliver messages until `close` is called and the queue is empty or the time is over."""
        while True:
            with self._changed:
                while not self._waiting:
                    if self._end < float("inf"):
                        return
                    self._changed.wait()
                text, self._busy = self._waiting.popleft(), True
            finished = self._try_to_deliver(text)
            with self._changed:
                if not finished:
                    return  # `close` counts this message as dropped
                self._busy = False

    def _try_to_deliver(self, text: str) -> bool:
        """Try to deliver a message until it is delivered or refused. Return False if the time is over before."""
        pause = FIRST_PAUSE
        while True:
            try:
                self.deliver(text)
            except DeliveryError as error:
                self.trouble = str(error)
                if not error.retry:
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


def has_valid_port(address: SplitResult) -> bool:
    """Whether an address has no port, or a port from 1 to 65535."""
    try:
        return address.port != 0
    except ValueError:  # the port is a word, or above 65535
        return False
