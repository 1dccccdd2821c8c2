"""Thread pools: the first job runs alone, and a job that hangs reports the stage in which it hangs."""

import atexit
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

from lit_ad.errors import TimeLimitError

PATIENCE = 10.0  # seconds that `Workers.close` waits for running jobs


class Pool(ThreadPoolExecutor):
    """A pool whose first job runs in the thread that submits it, before any other job begins.

    Libraries initialise themselves at their first use: static variables of C++, lazy imports, Pillow's readers. Two
    threads that do this at the same time may deadlock (OpenVINO's Python binding did so in 6 of 200 processes), or see
    half of a module. After the first job, everything is initialised.
    """

    def __init__(self, threads: int | None = None, name: str = "") -> None:
        super().__init__(threads, name)
        self.begun = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Let a thread call `fn(*args, **kwargs)`. Return a Future of its result or exception."""
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
    """A function call for a thread of `Workers`, and the stage that it has reached."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.future = Future[Any]()
        self.function, self.arguments = function, arguments
        self.enter("waiting for a free thread")

    def enter(self, stage: str) -> None:
        """Note that the job enters a stage, which is named in messages."""
        self.stage, self.since = stage, time.monotonic()

    def run(self) -> None:
        """Call the function in this thread, unless the job was cancelled."""
        if not self.future.set_running_or_notify_cancel():
            return
        current.job = self
        self.enter("the start of a job")
        try:
            self.future.set_result(self.function(*self.arguments))
        except BaseException as error:  # `result` raises it, in the thread that waits
            self.future.set_exception(error)
        finally:
            current.job = None

    def result(self, limit: float | None = None) -> Any:
        """Wait for the result, and return it. Raises the function's exception if it failed.

        Args:
            limit: Seconds that a stage may take. The time counts from the beginning of the stage, or from the call of
                `result` if that is later. None: no limit.

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
                    raise make_time_limit_error(self.stage, limit) from None


def make_time_limit_error(stage: str, limit: float) -> TimeLimitError:
    """Return the error for a stage that took longer than `limit` seconds."""
    return TimeLimitError(
        f"{stage} has taken more than {limit:g} s: it hangs, or this machine is slow; the time limit can be raised"
    )


current = threading.local()


def enter_stage(stage: str) -> None:
    """Note that the job of this thread enters a stage, which is named in messages. Outside a job, do nothing."""
    job = getattr(current, "job", None)
    if job is not None:
        job.enter(stage)


class Workers:
    """Threads for jobs that may hang, in a library or at a disk. The process can end although they hang.

    The other threads start after the first job is done, for the reason that `Pool` gives.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.jobs: SimpleQueue[Job | None] = SimpleQueue()
        self.running: dict[threading.Thread, Job | None] = {}
        self._start(1)
        atexit.register(self.close)  # a thread that is still in a library after the interpreter's end would crash

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Job:
        """Let a thread call `function(*arguments)`."""
        job = Job(function, arguments)
        self.jobs.put(job)
        return job

    def hanging(self, seconds: float) -> list[str]:
        """Return the stages of running jobs that have lasted longer than `seconds`."""
        jobs = [job for job in list(self.running.values()) if job is not None]
        return [job.stage for job in jobs if time.monotonic() - job.since > seconds]

    def close(self, patience: float = PATIENCE) -> None:
        """End the threads. Wait up to `patience` seconds for running jobs, and cancel the jobs that have not begun."""
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
        """Start threads."""
        for _ in range(count):
            thread = threading.Thread(target=self._work, daemon=True)
            self.running[thread] = None
            thread.start()

    def _work(self) -> None:
        """Run jobs until None comes. The first thread starts the others after its first job."""
        thread, alone = threading.current_thread(), len(self.running) == 1
        while (job := self.jobs.get()) is not None:
            self.running[thread] = job
            job.run()
            self.running[thread] = job = None
            if alone:
                self._start(self.count - 1)
                alone = False
