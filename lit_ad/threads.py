"""Threads of this process: a first job is done alone, and a job that hangs is told by the stage that it hangs in."""

import atexit
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

from lit_ad.errors import TimeLimitError

PATIENCE = 10.0  # seconds


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


class Job:
    """A call that a thread of `Workers` makes, and what it is at."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.future = Future[Any]()
        self.function, self.arguments = function, arguments
        self.enter("waiting for a free thread")

    def enter(self, stage: str) -> None:
        """Note what the job is at from now on."""
        self.stage, self.since = stage, time.monotonic()

    def run(self) -> None:
        """Make the call in this thread, unless nobody waits for it any more."""
        if not self.future.set_running_or_notify_cancel():
            return
        current.job = self
        self.enter("the start of a job")
        try:
            self.future.set_result(self.function(*self.arguments))
        except BaseException as error:  # it is raised where the result is asked for
            self.future.set_exception(error)
        finally:
            current.job = None

    def result(self, limit: float | None = None) -> Any:
        """Wait for the result.

        Args:
            limit: Seconds that a stage of the job may take while somebody waits for it. None: any time.

        Raises:
            TimeLimitError: A stage took longer.
        """
        begin = time.monotonic()
        while True:
            left = None if limit is None else max(self.since, begin) + limit - time.monotonic()
            try:
                return self.future.result(left)
            except TimeoutError:
                if self.future.done():  # the error is the job's own, or the job has just ended
                    return self.future.result()
                if limit is not None and time.monotonic() >= max(self.since, begin) + limit:
                    raise too_long(self.stage, limit) from None


def too_long(stage: str, limit: float) -> TimeLimitError:
    """The error of a stage that took longer than `limit` seconds."""
    return TimeLimitError(
        f"{stage} has taken more than {limit:g} s: it hangs, or this machine is slow; the time limit can be raised"
    )


current = threading.local()


def enter_stage(stage: str) -> None:
    """Note what the job of this thread is at from now on, for messages; elsewhere than in a job, do nothing."""
    job = getattr(current, "job", None)
    if job is not None:
        job.enter(stage)


class Workers:
    """Threads for jobs that may hang in a library or a disk. They do not keep the process from ending.

    The second thread begins when the first job is done, for the reason that `Pool` gives.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.jobs: SimpleQueue[Job | None] = SimpleQueue()
        self.running: dict[threading.Thread, Job | None] = {}
        self._start(1)
        atexit.register(self.close)  # a thread inside a library, when the interpreter is gone, would crash

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Job:
        """Have `function(*arguments)` called."""
        job = Job(function, arguments)
        self.jobs.put(job)
        return job

    def hanging(self, seconds: float) -> list[str]:
        """The stages of the jobs whose present stage has lasted longer than that."""
        jobs = [job for job in list(self.running.values()) if job is not None]
        return [job.stage for job in jobs if time.monotonic() - job.since > seconds]

    def close(self, patience: float = PATIENCE) -> None:
        """End the threads: wait `patience` seconds for jobs that are being done; those not begun are never done."""
        atexit.unregister(self.close)
        while not self.jobs.empty():
            job = self.jobs.get()
            if job is not None:
                job.future.cancel()
        for _ in range(self.count):
            self.jobs.put(None)
        end = time.monotonic() + patience
        for thread in list(self.running):
            thread.join(max(0.0, end - time.monotonic()))

    def _start(self, count: int) -> None:
        for _ in range(count):
            thread = threading.Thread(target=self._work, daemon=True)
            self.running[thread] = None
            thread.start()

    def _work(self) -> None:
        thread, alone = threading.current_thread(), len(self.running) == 1
        while (job := self.jobs.get()) is not None:
            self.running[thread] = job
            job.run()
            self.running[thread] = job = None
            if alone:
                self._start(self.count - 1)
                alone = False
