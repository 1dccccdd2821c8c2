"""Stop a training by a signal, and save a checkpoint. All processes stop after the same batch."""

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
from lit_ad.training.run_directory import quote_path

# True if the calling command (such as `lit-ad grow`) tells the user how to continue. The user cannot resume this inner
# training alone.
CALLER_TELLS: ContextVar[bool] = ContextVar("CALLER_TELLS", default=False)
STOP: dict[int, str] = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


class Interruption(L.Callback):
    """SIGTERM and Ctrl-C save `checkpoint` and end the run. Under Slurm, SIGUSR1 saves it and requeues the job.

    Lightning acts at once, also in the middle of a step or while another process waits in a reduction. Here all
    processes wait for the end of the batch, so that a resumed training equals one without interruption. A second Ctrl-C
    ends at once. Outside of training, the processes may stand in different places and cannot save a checkpoint
    together: SIGTERM and Ctrl-C end at once, and SIGUSR1 requeues without a checkpoint.

    Args:
        checkpoint: File of the checkpoint.
        restart: Command line that starts the run again if there is no checkpoint. "": no such command.
        part: Whether this is one of several trainings in a row. If so, users are told to continue by `restart`, which
            continues all of them, even if there is a checkpoint.
    """

    def __init__(self, checkpoint: Path, restart: str = "", part: bool = False) -> None:
        self.checkpoint, self.restart, self.part = checkpoint, restart, part
        self.asked = 0  # number of the signal that asked to stop
        self.stopped_by = signal.SIGTERM
        self.told = False  # whether the user was told how to go on
        self.requeue: Any = None  # Lightning's handler of SIGUSR1 under Slurm

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.asked = 0
        self._set_handlers(trainer, self.note_signal, self.note_signal, self.note_signal)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self._end_at_once(trainer)

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if SLURMEnvironment.detect() and signal.getsignal(signal.SIGUSR1) is requeue_job:
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)  # Lightning sets its own handler only where there is none

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.part:
            _requeue_on_signal()  # until the next training

    def _end_at_once(self, trainer: L.Trainer, *_: Any) -> None:
        """Let signals end this process at once, until Lightning restores the handlers from before the run. Lightning's
        own handlers communicate with other processes wherever this one stands."""

        def stop(number: int, frame: Any) -> None:
            if trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(signal.SIGTERM)  # ends the processes that this one has started
            self.stopped_by = signal.SIGTERM
            raise SIGTERMException

        alone = trainer.world_size == 1
        self._set_handlers(trainer, stop, signal.default_int_handler, self.requeue if alone else requeue_job)

    @contextmanager
    def between_trainings(self, trainer: L.Trainer) -> Iterator[None]:
        """Use this around several trainings in a row. A signal between two trainings ends the process at once, and the
        user is told how to continue.

        SIGUSR1 under Slurm requeues the job: what the finished trainings wrote is on disk.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # Python allows signal handlers in the main thread only
            return
        numbers = [*STOP, *([signal.SIGUSR1] if SLURMEnvironment.detect() else [])]  # Windows has no SIGUSR1
        before = {number: signal.getsignal(number) for number in numbers}
        self._end_at_once(trainer)
        _requeue_on_signal()
        try:
            yield
        except (KeyboardInterrupt, SIGTERMException) as stop:
            self._tell(stop, self._explain_how_to_go_on())
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    on_sanity_check_start = on_test_start = on_predict_start = _end_at_once  # type: ignore[assignment]

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.state.fn == "validate":
            self._end_at_once(trainer)

    def _set_handlers(self, trainer: L.Trainer, terminate: Any, interrupt: Any, requeue: Any) -> None:
        """Set the handlers of SIGTERM, of SIGINT and, under Slurm, of SIGUSR1."""
        if threading.current_thread() is not threading.main_thread():
            return  # Python allows signal handlers in the main thread only
        signal.signal(signal.SIGTERM, terminate)
        # A shell makes its background commands ignore Ctrl-C, which is meant for the command in the foreground.
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            signal.signal(signal.SIGINT, interrupt)
        if "SLURM_JOB_ID" in os.environ and callable(handler := signal.getsignal(signal.SIGUSR1)):
            self.requeue = self.requeue or handler
            signal.signal(signal.SIGUSR1, requeue or handler)

    def note_signal(self, number: int, frame: Any) -> None:
        """Handle a signal: remember it until the end of the batch. Raises KeyboardInterrupt at a second Ctrl-C."""
        if number == signal.SIGINT:
            if self.asked == number:
                raise KeyboardInterrupt
            rank_zero_info("\nCtrl-C: stopping after this batch. Press it again to stop at once, without a checkpoint.")
        self.asked = number

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        # A run that resumed from this batch would skip the validation after it, so the next batch stops, or the epoch.
        # should_stop: KeepProgress has seen the last step of the training, which is validated, too.
        if not (trainer.is_last_batch or trainer.should_stop or _is_validated(trainer)):
            self.stop_if_asked(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        reduce_logged_metrics(trainer)
        self.stop_if_asked(trainer)

    def stop_if_asked(self, trainer: L.Trainer) -> None:
        """Stop or requeue if any process got a signal. All processes must call this after the same batch."""
        asked = self.asked
        if trainer.world_size > 1:
            number = torch.tensor(asked, device=trainer.strategy.root_device)
            asked = int(trainer.strategy.reduce(number, reduce_op="max"))
        if not asked:
            return
        self.asked = 0
        if asked in STOP:
            trainer.save_checkpoint(self.checkpoint, weights_only=False)
            self.stopped_by, self.told = signal.Signals(asked), True
            rank_zero_info(f"\nStopped by {STOP[asked]}. {self._explain_how_to_go_on()}".rstrip())
            raise SIGTERMException
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and trainer.is_global_zero:
                logger.experiment.finish()  # the requeue ends wandb's process, which would lose its unsent data
        self.requeue(asked, None)

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """After a signal outside of training, or a second Ctrl-C, print what was saved and how to go on."""
        if self.told or not isinstance(exception, KeyboardInterrupt | SIGTERMException):
            return
        stage, config = trainer.state.fn, Path(trainer.default_root_dir) / "config.yaml"
        if stage == "fit" or CALLER_TELLS.get():
            told = self._explain_how_to_go_on()
        elif stage == "test" and trainer.ckpt_path and config.is_file():
            model = f"--config {quote_path(config)} --ckpt_path {quote_path(trainer.ckpt_path)}"
            told = f"The training was finished, but not the test. To test: lit-ad test {model}"
        else:
            told = "To do it again, type the same command"
        self._tell(exception, told)

    def _explain_how_to_go_on(self) -> str:
        """Return a sentence that tells the user how to go on; "" if the caller prints one."""
        if CALLER_TELLS.get():
            return ""
        saved = self.checkpoint.is_file() and not self.part
        command = f"--ckpt_path {quote_path(self.checkpoint)}" if saved else self.restart
        return f"To go on: {command}" if command else "Nothing was saved yet"

    def _tell(self, stop: BaseException, told: str) -> None:
        name = "Ctrl-C" if isinstance(stop, KeyboardInterrupt) else "SIGTERM"
        rank_zero_info(f"Stopped by {name}. {told}".rstrip())
        self.told = True


def _is_validated(trainer: L.Trainer) -> bool:
    """Return whether trainer.val_check_interval lets a validation follow this batch, but not every batch."""
    loop, every = trainer.fit_loop, trainer.val_check_batch
    batches = loop.total_batch_idx if trainer.check_val_every_n_epoch is None else loop.batch_idx
    return every not in (None, 1, float("inf")) and (batches + 1) % every == 0


def _requeue_on_signal() -> None:
    """Let SIGUSR1 requeue the Slurm job at once. Outside of a training there is no checkpoint to save first."""
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
