"""Judge images by several threads, and give the answers in the order of the images."""

from collections.abc import Callable, Generator, Iterator
from itertools import islice
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any, Protocol, TypeVar

from lit_ad.errors import TimeLimitError
from lit_ad.machine import cores
from lit_ad.threads import PATIENCE, Job, Workers, make_time_limit_error

CALLERS = min(4, cores())  # how many threads share the cores
WORKERS = CALLERS + 1  # how many threads a stream has: one more, which reads while the others compute

T = TypeVar("T")


class Record(Protocol):
    """The place to which the verdicts of a stream are written: a `lit_ad.deploy.journal.Journal`."""

    def record(self, detection: Any, seconds: float, name: str = "", *, category: str | None = None) -> None:
        """Queue a Detection, its seconds, the image's name and the category that was asked for, to be written."""


def run_in_order(
    work: Callable[[list[Any], int], list[T]],
    images: Iterator[Any],
    batch_size: int,
    timeout: float | None,
    source_timeout: float | None,
) -> Generator[T, None, None]:
    """Yield the result of `work` for each image, in order. `work` takes groups of images, some of them ahead of time,
    but no result waits for a later group.

    Args:
        work: Takes a group of images and the number of its first image (the stream's first is 1). Returns a result for
            each image.
        images: The images. They may come slowly, and without end.
        batch_size: How many images a group has.
        timeout: Seconds that a stage of `work` may take (`threads.enter_stage`). None: no limit.
        source_timeout: Seconds that the next image may take. None: no limit.

    Raises:
        TimeLimitError: A stage of `work` or the next image took longer than its limit.
    """
    ahead: Queue[Job | BaseException | None] = Queue(WORKERS)  # None: the images end; an exception: `images` raised it
    closed, workers, patience = Event(), Workers(WORKERS), PATIENCE

    def feed() -> None:
        end: BaseException | None = None
        try:
            first = 1
            while group := list(islice(images, batch_size)):
                if not put(ahead, workers.submit(work, group, first), closed):
                    return
                first += len(group)
        except BaseException as error:  # the loop below raises it, in the caller's thread
            end = error
        put(ahead, end, closed)

    Thread(target=feed, daemon=True).start()
    try:
        while (job := take(ahead, source_timeout)) is not None:
            if isinstance(job, BaseException):
                raise job
            yield from job.result(timeout)
    except TimeLimitError:
        patience = 0.0
        raise
    finally:
        closed.set()
        workers.close(patience)


def take(queue: Queue[Any], timeout: float | None) -> Any:
    """Return the next item of a queue. Raises TimeLimitError if there is none after `timeout` seconds."""
    try:
        return queue.get(timeout=timeout)
    except Empty:
        assert timeout is not None
        raise make_time_limit_error("waiting for the next image of the stream", timeout) from None


def put(queue: Queue[Any], item: Any, closed: Event) -> bool:
    """Wait for a place in a queue, and put an item there. Return False if `closed` is set: nobody reads any more."""
    while not closed.is_set():
        try:
            queue.put(item, timeout=0.1)
            return True
        except Full:
            pass
    return False
