"""Signals that ask a training to stop: after the batch, on every process at the same one, with a checkpoint."""

import signal
import threading
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lit_ad.distributed import reduce_logged_metrics
from lit_ad.training.run_directory import quoted

STOP: dict[int, str] = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


class Interruption(L.Callback):
    """SIGTERM and Ctrl-C save `checkpoint` and end; SIGUSR1 under Slurm saves and requeues the job, as Lightning does.

    Lightning acts at once, wherever the process is, also between two halves of a step or while another process waits
    in a reduction. Here both wait for the end of the batch, so that what is resumed goes on as if nothing had happened.
    Where no batch is trained, Ctrl-C ends at once.

    Args:
        checkpoint: Where they save. A second Ctrl-C ends at once.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.asked = 0  # the signal's number
        self.stopped_by = signal.SIGTERM
        self.handlers: dict[int, Any] = {}  # those that were there before

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # where Python allows no handlers
        self.asked = 0
        # A shell has a command in the background ignore Ctrl-C, which is meant for the one in front.
        self.handlers = {n: before for n in STOP if (before := signal.getsignal(n)) != signal.SIG_IGN}
        if hasattr(signal, "SIGUSR1") and callable(requeue := signal.getsignal(signal.SIGUSR1)):
            self.handlers[signal.SIGUSR1] = requeue  # Lightning's, under Slurm
        for number in self.handlers:
            signal.signal(number, self.ask)

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
            self.stopped_by = signal.Signals(asked)
            rank_zero_info(f"\nStopped by {STOP[asked]}. To go on: --ckpt_path {quoted(self.checkpoint)}")
            raise SIGTERMException
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and trainer.is_global_zero:
                logger.experiment.finish()  # its process gets SIGTERM with the requeue, and drops what it holds
        self.handlers[asked](asked, None)

    def on_exception(self, trainer: L.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Ctrl-C where no batch is trained, or a second one: what is there, and how to go on."""
        if not isinstance(exception, KeyboardInterrupt):
            return
        stage, config = trainer.state.fn, Path(trainer.default_root_dir) / "config.yaml"
        if stage == "fit":
            saved = self.checkpoint.is_file()
            said = f"To go on: --ckpt_path {quoted(self.checkpoint)}" if saved else "Nothing was saved yet"
        elif stage == "test" and trainer.ckpt_path and config.is_file():
            model = f"--config {quoted(config)} --ckpt_path {quoted(trainer.ckpt_path)}"
            said = f"The test was not finished, the training was. To test: lit-ad test {model}"
        else:
            said = f"The same command does the {stage} again"
        rank_zero_info(f"Stopped by Ctrl-C. {said}")

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
