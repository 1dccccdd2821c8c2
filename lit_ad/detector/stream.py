"""Images judged by several threads, answers in the order of the images."""

from collections.abc import Callable, Generator, Iterator
from itertools import islice
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any, Protocol, TypeVar

from lit_ad.errors import TimeLimitError
from lit_ad.machine import cores
from lit_ad.threads import PATIENCE, Job, Workers, too_long

CALLERS = min(4, cores())  # threads that share the cores
WORKERS = CALLERS + 1  # threads of a stream: one reads while the others compute

T = TypeVar("T")


class Record(Protocol):
    """Where the verdicts of a stream are written: a `lit_ad.deploy.journal.Journal`."""

    def record(
        self, detection: Any, seconds: float, name: str = "", *, awaited: bool = True, category: str | None = None
    ) -> object:
        """Write a Detection, the seconds that it took, the image's name, and the category that was asked for. Return at
        once; `awaited` is whether somebody waits until it is written."""


def in_order(
    work: Callable[[list[Any], int], list[T]],
    images: Iterator[Any],
    batch_size: int,
    timeout: float | None,
    source_timeout: float | None,
) -> Generator[T, None, None]:
    """Yield what `work` says of each image. A few groups are taken ahead; no answer waits for an image that is to come.

    Args:
        work: A group of images, and the number of the first (the stream's first is 1) -> a result of each.
        images: May be slow, or endless.
        batch_size: Images of a group.
        timeout: Seconds that a stage of `work` may take (`threads.enter_stage`). None: any time.
        source_timeout: Seconds that the next image may take. None: any time.

    Raises:
        TimeLimitError: One of them took longer.
    """
    ahead: Queue[Job | BaseException | None] = Queue(WORKERS)  # None is the end, an error that of `images`
    closed, workers, patience = Event(), Workers(WORKERS), PATIENCE

    def feed() -> None:
        last: BaseException | None = None
        try:
            first = 1
            while group := list(islice(images, batch_size)):
                if not put(ahead, workers.submit(work, group, first), closed):
                    return
                first += len(group)
        except BaseException as error:  # for the reader
            last = error
        put(ahead, last, closed)

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
    """The next item of a queue. Raises TimeLimitError."""
    try:
        return queue.get(timeout=timeout)
    except Empty:
        assert timeout is not None
        raise too_long("waiting for the next image of the stream", timeout) from None


def put(queue: Queue[Any], item: Any, closed: Event) -> bool:
    """Wait for a place in a queue. False where nobody takes from it any more."""
    while not closed.is_set():
        try:
            queue.put(item, timeout=0.1)
            return True
        except Full:
            pass
    return False
