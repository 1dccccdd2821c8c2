"""Save weights that a callback exchanges at the end of the training."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from lit_ad.training.calibration import fingerprint_weights, same_weights


class FinalWeights(L.Callback):
    """Saves weights that another callback puts in place after the last checkpoint, and that would be lost.

    StochasticWeightAveraging does so if a method has no BatchNorm. The saved weights have no threshold, because no
    validation follows. This callback must come after such a callback.

    Args:
        last: The latest checkpoint. averaged.ckpt is written beside it.
    """

    def __init__(self, last: Path) -> None:
        self.last = last
        self.before: str | None = None  # fingerprint of the weights at the end of the last epoch

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs:
            self.before = fingerprint_weights(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.before is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if not trainer.strategy.broadcast(
            self.before != fingerprint_weights(trainer)
        ):  # the first process decides for all
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
            f"A callback exchanged the weights after the training: {file} has them, without a threshold. "
            "`lit-ad recalibrate` sets one"
        )
