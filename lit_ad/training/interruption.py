"""Signals that ask a training to stop: after the batch, on every process at the same one, with a checkpoint."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lit_ad.distributed import reduce_logged_metrics
from lit_ad.training.run_directory import quoted

# Whether what has called the training tells how to go on, since its user cannot type what a training of one's own takes
CALLER_TELLS: ContextVar[bool] = ContextVar("CALLER_TELLS", default=False)
STOP: dict[int, str] = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


class Interruption(L.Callback):
    """SIGTERM and Ctrl-C save `checkpoint` and end; SIGUSR1 under Slurm saves and requeues the job, as Lightning does.

    Lightning acts at once, wherever the process is, also between two halves of a step or while another process waits
    in a reduction. Here all wait for the end of the batch, so that what is resumed goes on as if nothing had happened.
    Where nothing is trained, SIGTERM and Ctrl-C end at once, and SIGUSR1 requeues without a checkpoint: processes
    cannot save one together where each may stand in another place.

    Args:
        checkpoint: Where they save. A second Ctrl-C ends at once.
        restart: What is typed to go on where there is no checkpoint. "": there is nothing to go on with.
        part: Whether this is one of several trainings, so that they all go on by `restart`.
    """

    def __init__(self, checkpoint: Path, restart: str = "", part: bool = False) -> None:
        self.checkpoint, self.restart, self.part = checkpoint, restart, part
        self.asked = 0  # the signal's number
        self.stopped_by = signal.SIGTERM
        self.told = False  # whether the user knows how to go on
        self.requeue: Any = None  # Lightning's handler of SIGUSR1, under Slurm

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.asked = 0
        self._handle(trainer, self.ask, self.ask, self.ask)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._end_at_once(trainer)

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if SLURMEnvironment.detect() and signal.getsignal(signal.SIGUSR1) is requeue_job:
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)  # Lightning sets its own handler only where there is none

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.part:
            _requeue_on_signal()  # until the next training

    def _end_at_once(self, trainer: L.Trainer, *_: Any) -> None:
        """Until Lightning restores the handlers of before the run. Its own communicate in the middle of anything."""

        def stop(number: int, frame: Any) -> None:
            if trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(signal.SIGTERM)  # the processes that this one has started
            self.stopped_by = signal.SIGTERM
            raise SIGTERMException

        alone = trainer.world_size == 1
        self._handle(trainer, stop, signal.default_int_handler, self.requeue if alone else requeue_job)

    @contextmanager
    def between_trainings(self, trainer: L.Trainer) -> Iterator[None]:
        """Where trainings follow one another, end at once by a signal between two of them, and tell how to go on.

        SIGUSR1 under Slurm requeues the job: what the finished trainings wrote is on disk.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # where Python allows no handlers
            return
        numbers = [*STOP, *([signal.SIGUSR1] if SLURMEnvironment.detect() else [])]  # Windows has no SIGUSR1
        before = {number: signal.getsignal(number) for number in numbers}
        self._end_at_once(trainer)
        _requeue_on_signal()
        try:
            yield
        except (KeyboardInterrupt, SIGTERMException) as stop:
            self._tell(stop, self._way_on())
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    on_sanity_check_start = on_test_start = on_predict_start = _end_at_once  # type: ignore[assignment]

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.state.fn == "validate":
            self._end_at_once(trainer)

    def _handle(self, trainer: L.Trainer, terminate: Any, interrupt: Any, requeue: Any) -> None:
        """Set the handlers of SIGTERM, SIGINT and, under Slurm, of SIGUSR1."""
        if threading.current_thread() is not threading.main_thread():
            return  # where Python allows no handlers
        signal.signal(signal.SIGTERM, terminate)
        # A shell has a command in the background ignore Ctrl-C, which is meant for the one in front.
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            signal.signal(signal.SIGINT, interrupt)
        if "SLURM_JOB_ID" in os.environ and callable(handler := signal.getsignal(signal.SIGUSR1)):
            self.requeue = self.requeue or handler
            signal.signal(signal.SIGUSR1, requeue or handler)

    def ask(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT:
            if self.asked == number:
                raise KeyboardInterrupt
            rank_zero_info("\nCtrl-C: stopping after this batch. Again to stop at once, without a checkpoint.")
        self.asked = number

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if not trainer.is_last_batch:  # what resumed from there would skip the validation that follows
            self.act(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        reduce_logged_metrics(trainer)
        self.act(trainer)

    def act(self, trainer: L.Trainer) -> None:
        asked = self.asked
        if trainer.world_size > 1:
            everywhere = torch.tensor(asked, device=trainer.strategy.root_device)
            asked = int(trainer.strategy.reduce(everywhere, reduce_op="max"))
        if not asked:
            return
        self.asked = 0
        if asked in STOP:
            trainer.save_checkpoint(self.checkpoint, weights_only=False)
            self.stopped_by, self.told = signal.Signals(asked), True
            rank_zero_info(f"\nStopped by {STOP[asked]}. {self._way_on()}".rstrip())
            raise SIGTERMException
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and trainer.is_global_zero:
                logger.experiment.finish()  # its process gets SIGTERM with the requeue, and drops what it holds
        self.requeue(asked, None)

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """A signal where no batch is trained, or a second Ctrl-C: what is there, and how to go on."""
        if self.told or not isinstance(exception, KeyboardInterrupt | SIGTERMException):
            return
        stage, config = trainer.state.fn, Path(trainer.default_root_dir) / "config.yaml"
        if stage == "fit" or CALLER_TELLS.get():
            told = self._way_on()
        elif stage == "test" and trainer.ckpt_path and config.is_file():
            model = f"--config {quoted(config)} --ckpt_path {quoted(trainer.ckpt_path)}"
            told = f"The test was not finished, the training was. To test: lit-ad test {model}"
        else:
            told = "To do it again, type the same command"
        self._tell(exception, told)

    def _way_on(self) -> str:
        """How to go on, in a sentence."""
        if CALLER_TELLS.get():
            return ""
        saved = self.checkpoint.is_file() and not self.part
        way = f"--ckpt_path {quoted(self.checkpoint)}" if saved else self.restart
        return f"To go on: {way}" if way else "Nothing was saved yet"

    def _tell(self, stop: BaseException, told: str) -> None:
        name = "Ctrl-C" if isinstance(stop, KeyboardInterrupt) else "SIGTERM"
        rank_zero_info(f"Stopped by {name}. {told}".rstrip())
        self.told = True


def _requeue_on_signal() -> None:
    """Have SIGUSR1 requeue the Slurm job where no training is there to save a checkpoint first."""
    if SLURMEnvironment.detect() and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGUSR1, requeue_job)


def requeue_job(number: int, frame: Any) -> None:
    """Put the Slurm job back into its queue, once."""
    if os.environ.get("SLURM_PROCID") == "0":
        array, job = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ["SLURM_JOB_ID"]
        subprocess.run(
            ["scontrol", "requeue", job if array is None else f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"],
            check=False,
        )
