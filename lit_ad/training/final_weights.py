"""Weights that a callback puts in place when the training has ended."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from lit_ad.training.calibration import same_weights, weights_of


class FinalWeights(L.Callback):
    """Save weights that are exchanged after the last checkpoint, which would be lost. StochasticWeightAveraging does so
    where a method has no BatchNorm. They have no threshold, since no validation follows.

    It must come after such callbacks.

    Args:
        last: The latest checkpoint, beside which averaged.ckpt is written.
    """

    def __init__(self, last: Path) -> None:
        self.last = last
        self.before: str | None = None  # the fingerprint of the weights at the end of the last epoch

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs:
            self.before = weights_of(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.before is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if not trainer.strategy.broadcast(self.before != weights_of(trainer)):  # all do what the first process sees
            return
        state = trainer.strategy.lightning_module_state_dict()
        saved = trainer.is_global_zero and same_weights(
            state, trainer.strategy.load_checkpoint(self.last)["state_dict"]
        )
        if trainer.strategy.broadcast(saved):
            return
        file = self.last.with_name("averaged.ckpt")
        trainer.save_checkpoint(file)
        rank_zero_info(
            f"A callback exchanged the weights when the training had ended: {file} has them, without a threshold. "
            "`lit-ad recalibrate` sets one"
        )
