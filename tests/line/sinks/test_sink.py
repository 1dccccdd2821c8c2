"""Messages are delivered in order, failed deliveries are repeated, and dropped messages are counted."""

import threading
import time

import pytest

from lit_ad.line.sinks import sink
from lit_ad.line.sinks.sink import DeliveryError, Outbox


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(sink, "LONGEST_PAUSE", 0.02)


def test_failed_deliveries_are_repeated_in_order() -> None:
    delivered, failures = list[str](), iter([True, True, False, True, False])

    def deliver(text: str) -> None:
        if next(failures, False):
            raise DeliveryError("away")
        delivered.append(text)

    outbox = Outbox(deliver)
    for number in range(5):
        outbox.send(str(number))
    outbox.close()
    assert delivered == list("01234")
    assert outbox.status() == {"sent": 5, "dropped": 0, "waiting": 0, "trouble": None}


def test_refused_messages_are_dropped() -> None:
    def deliver(text: str) -> None:
        if text == "1":
            raise DeliveryError("never", retry=False)

    outbox = Outbox(deliver)
    for number in range(3):
        outbox.send(str(number))
    outbox.close()
    assert (outbox.sent, outbox.dropped) == (2, 1)


def test_a_full_queue_drops_its_oldest_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "CLOSE_SECONDS", 0.3)
    away, delivered = threading.Event(), list[str]()

    def deliver(text: str) -> None:
        if not away.is_set():
            raise DeliveryError("away")
        delivered.append(text)

    outbox = Outbox(deliver, most=3)
    outbox.send("first")
    while outbox.status()["waiting"] != 1 or not outbox.trouble:  # it is being tried
        time.sleep(0.001)
    for number in range(5):
        outbox.send(str(number))
    assert outbox.status() == {"sent": 0, "dropped": 2, "waiting": 4, "trouble": "away"}
    away.set()
    outbox.close()
    assert delivered == ["first", "2", "3", "4"] and outbox.dropped == 2


def test_close_drops_messages_that_cannot_be_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "CLOSE_SECONDS", 0.2)

    def deliver(text: str) -> None:
        raise DeliveryError("away")

    outbox = Outbox(deliver)
    for number in range(4):
        outbox.send(str(number))
    begin = time.monotonic()
    outbox.close()
    assert time.monotonic() - begin < 5
    assert (outbox.sent, outbox.dropped, outbox.status()["waiting"]) == (0, 4, outbox.status()["waiting"])
