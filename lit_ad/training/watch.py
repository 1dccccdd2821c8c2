"""End a process that waits in vain for the other processes of its training, and print which one is missing.

If a process has died, hangs, or is in another collective, a collective of torch waits for half an hour or for ever. No
signal ends it, because Python runs signal handlers only when the call returns. Therefore each process has a thread that
writes every second where its main thread stands, and reads the same of the others. One process may work alone for hours
while the others wait; a wait is in vain only if no process goes on.
"""

import json
import os
import select
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from operator import attrgetter
from typing import Any

import lightning as L
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_warn

from lit_ad.distributed import gather
from lit_ad.training.signs import INTERVAL, Sign, explain_wait, find_place, stack, waits_in_vain

_WORKED = 0.001  # seconds of processor time in which a main thread has worked; one that waits uses none
PATIENCE_TO_JOIN = 120.0  # least seconds to wait for all processes to start: imports from a busy disk are slow
PATIENCE_OF_SIGNAL = 20.0  # seconds after a signal; Slurm kills 30 seconds after its SIGTERM
_PATIENCE_OF_SECOND = 2.0  # seconds after a second Ctrl-C
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has none


class Watch(L.Callback):
    """Ends a process of a training by several processes if it waits in vain for the others, and prints why.

    After SIGTERM or Ctrl-C it waits at most 20 seconds, after a second Ctrl-C at most 2.

    Args:
        patience: Seconds in which no process goes on before this one ends. Infinity waits for ever, for example while
            a debugger holds a process.
    """

    def __init__(self, patience: float = 300.0) -> None:
        self.patience = patience
        self.progress = 0  # counts hooks: on a GPU, the main thread may be in the same call each second
        self.launcher: Any = None  # Lightning's launcher of the processes that this one has started
        self.store: dist.Store | None = None
        self.thread: threading.Thread | None = None

    def join(self, trainer: L.Trainer) -> None:
        """Start a timer. After the patience, but not before 2 minutes, it ends this process if others have not
        joined."""
        self.launcher, main = trainer.strategy.launcher, threading.get_ident()
        rank, processes, patience = trainer.global_rank, trainer.world_size, max(self.patience, PATIENCE_TO_JOIN)

        def end() -> None:
            if any(frame.f_code.co_name == "init_process_group" for frame in stack(main)):
                address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
                self._end(
                    f"rank {rank} of {processes} has waited {patience:.0f} s at {address}, and not all other processes "
                    "have come: look at what they printed, and whether they reach this address"
                )

        timer = threading.Timer(min(patience, threading.TIMEOUT_MAX), end)
        timer.daemon = True
        timer.start()

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        if trainer.world_size == 1 or not dist.is_initialized():
            return
        self.store = self.store or _open_store(trainer)
        if self.store is None:
            return
        self.launcher = trainer.strategy.launcher
        self.on_cpu = trainer.strategy.root_device.type == "cpu"
        self.main = threading.get_ident()
        self.rank, self.processes = trainer.global_rank, trainer.world_size
        self.reader, self.writer = socket.socketpair()
        self.reader.setblocking(False)
        self.writer.setblocking(False)
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(self.writer.fileno(), warn_on_full_buffer=False)
            if hasattr(os, "register_at_fork"):  # otherwise signals to a loader's workers would arrive here
                os.register_at_fork(after_in_child=partial(signal.set_wakeup_fd, -1))
        self.thread = threading.Thread(target=self._run, args=(self.store,), daemon=True, name="watch")
        self.thread.start()

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.thread is None:
            return
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(-1)
        self.writer.send(b"\0")
        self.thread.join(5)  # the thread may wait for an answer of the first process
        self.thread = None

    def _count(self, *_: Any) -> None:
        self.progress += 1

    on_train_batch_start = on_validation_batch_start = _count  # type: ignore[assignment]
    on_test_batch_start = on_predict_batch_start = _count  # type: ignore[assignment]

    # These functions run in the thread.

    def _run(self, store: dist.Store) -> None:
        """Exchange signs with the other processes until the training ends, and end this process if it waits in vain."""
        own, seen = Sign(self.rank), dict[int, tuple[Sign, float]]()
        before, since = self._read_position(), time.monotonic()
        processor = self._read_processor_time()
        signals: list[int] = []
        while not own.ended:
            if select.select([self.reader], [], [], INTERVAL)[0]:
                received = self.reader.recv(64)
                own.ended = b"\0" in received
                signals += [number for number in received if number in (signal.SIGINT, signal.SIGTERM)]
            position, now, worked = self._read_position(), time.monotonic(), self._read_processor_time() - processor
            if position != before or worked > _WORKED:
                before, since, processor = position, now, self._read_processor_time()
            frames = list(stack(self.main))
            own.place, own.collective = find_place(frames)
            own.still, own.number = now - since, own.number + 1
            others = self._exchange(store, own, seen, now)
            patience = self.patience if not signals else min(self.patience, PATIENCE_OF_SIGNAL)
            alone = signals.count(signal.SIGINT) > 1
            if alone:
                patience = min(patience, _PATIENCE_OF_SECOND)
            if not own.ended and waits_in_vain(own, [] if alone else others, patience):
                if any(other.rank < own.rank and not other.gone for other in others):
                    time.sleep(3 * INTERVAL)  # the lower rank prints the line first, and may end this process, too
                explanation = explain_wait(sorted([own, *others], key=attrgetter("rank")))
                self._end(explanation, 128 + signals[-1] if signals else 1)

    def _exchange(self, store: dist.Store, own: Sign, seen: dict[int, tuple[Sign, float]], now: float) -> list[Sign]:
        """Write the sign of this process, and return those of the others. `silence` grows while a process writes none.

        Args:
            store: The store of all signs.
            own: The sign of this process.
            seen: By rank, the latest sign and the time when it was read; updated.
            now: The present time in seconds.
        """
        keys = [str(rank) for rank in range(self.processes)]
        try:
            store.set(str(own.rank), json.dumps(asdict(own)))
            signs = [Sign(**json.loads(text)) for text in store.multi_get(keys)]
        except RuntimeError:  # the first process, which holds the store, has ended
            signs = [sign for sign, _ in seen.values()]
            for sign in signs:
                sign.ended |= sign.rank == 0
        for sign in signs:
            if sign.rank not in seen or seen[sign.rank][0].number != sign.number:
                seen[sign.rank] = (sign, now)
        return [replace(sign, silence=now - heard) for sign, heard in seen.values() if sign.rank != own.rank]

    def _end(self, explanation: str, code: int = 1) -> None:
        """End this process, whatever it waits for, and the processes that it has started, even if they hang."""
        _print_last(f"lit-ad: {explanation}")
        if self.launcher is not None:
            self.launcher.kill(KILL)
        os._exit(code)

    def _read_position(self) -> tuple[Any, ...]:
        """Return a value that changes when the main thread goes on."""
        return self.progress, *((id(frame), frame.f_lasti) for frame in stack(self.main))

    def _read_processor_time(self) -> float:
        """Return the main thread's processor time in seconds; 0 on a GPU, where a waiting thread runs a busy loop."""
        if not self.on_cpu or not hasattr(time, "pthread_getcpuclockid"):
            return 0.0
        return time.clock_gettime(time.pthread_getcpuclockid(self.main))


def _open_store(trainer: L.Trainer) -> dist.Store | None:
    """Open a store on the first process for the watch's threads alone. If any process cannot reach it, all get None."""
    store: dist.Store | None = None
    address, port, limit = os.environ.get("MASTER_ADDR", "localhost"), 0, timedelta(seconds=30)
    try:
        if trainer.is_global_zero:
            server = dist.TCPStore("localhost", 0, is_master=True, timeout=limit, wait_for_workers=False)
            store, port = server, server.port
    except RuntimeError:
        pass
    port = trainer.strategy.broadcast(port)
    try:
        if port and not trainer.is_global_zero:
            store = dist.TCPStore(address, port, timeout=limit, wait_for_workers=False)
        if store is not None:
            store.set(str(trainer.global_rank), json.dumps(asdict(Sign(trainer.global_rank))))
    except RuntimeError:
        store = None
    if all(gather([store is not None])):
        return store
    rank_zero_warn(
        "not all processes can reach a port of the first one: if a process dies or hangs, the others may wait long"
    )
    return None


def _print_last(line: str) -> None:
    """Print a line before the process ends, and show the terminal's cursor again, which a progress bar hides."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)
        if sys.stderr.isatty():
            print("\x1b[?25h", end="", file=sys.stderr, flush=True)
        sys.stdout.flush()
