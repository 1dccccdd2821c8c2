"""Answers come in the order of the images, and no answer waits for a later image."""

import time
from collections.abc import Iterator
from queue import Queue
from threading import Event
from typing import Any

import pytest

from lit_ad.detector.stream import WORKERS, put, run_in_order, take
from lit_ad.errors import TimeLimitError


def numbered(group: list[Any], first: int) -> list[tuple[int, Any]]:
    """Return each image with its number. The first ones take longest."""
    time.sleep(0.02 / first)
    return [(first + i, image) for i, image in enumerate(group)]


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 20])
def test_results_come_in_the_order_of_the_images(count: int, batch_size: int) -> None:
    results = list(run_in_order(numbered, iter(range(count)), batch_size, None, None))
    assert results == [(i + 1, i) for i in range(count)]


def test_no_answer_waits_for_a_later_image() -> None:
    asked = Event()

    def images() -> Iterator[int]:
        yield 0
        assert asked.wait(30), "the first answer was held back"
        yield 1

    stream = run_in_order(numbered, images(), 1, None, None)
    assert next(stream) == (1, 0)
    asked.set()
    assert list(stream) == [(2, 1)]


def test_few_images_are_taken_ahead() -> None:
    taken: list[int] = []

    def images() -> Iterator[int]:
        for i in range(1000):
            taken.append(i)
            yield i

    stream = run_in_order(numbered, images(), 1, None, None)
    next(stream)
    time.sleep(0.3)
    stream.close()
    assert len(taken) < 4 * WORKERS + 4


def test_an_error_of_the_images_comes_after_the_earlier_answers() -> None:
    def images() -> Iterator[int]:
        yield 0
        raise ValueError("the camera is gone")

    stream = run_in_order(numbered, images(), 1, None, None)
    assert next(stream) == (1, 0)
    with pytest.raises(ValueError, match="the camera is gone"):
        next(stream)


def test_a_source_that_gives_nothing_reaches_its_time_limit() -> None:
    with pytest.raises(TimeLimitError, match="waiting for the next image of the stream"):
        take(Queue(), 0.05)


def test_a_closed_stream_ends_the_wait_for_a_place() -> None:
    queue: Queue[int] = Queue(1)
    closed = Event()
    assert put(queue, 1, closed)
    closed.set()
    assert not put(queue, 2, closed)
