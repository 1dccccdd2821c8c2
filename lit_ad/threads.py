"""Threads of this process, whose first job is done alone."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Pool(ThreadPoolExecutor):
    """A pool whose first job runs in the thread that submits it, before any other job begins.

    Libraries set things up at their first use: a static of C++, a lazy import, Pillow's readers. Two threads that meet
    there may wait for each other for ever (OpenVINO's Python binding did so in 6 of 200 processes), or see half of a
    module. After the first job everything is set up.
    """

    def __init__(self, threads: int | None = None, name: str = "") -> None:
        super().__init__(threads, name)
        self.begun = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have `fn(*args, **kwargs)` done. Return its result, or its exception, as a Future."""
        if self.begun:
            return super().submit(fn, *args, **kwargs)
        self.begun = True
        future = Future[Any]()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future
