"""best.ckpt: the weights that a validation measured as the best so far."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from lit_ad.errors import UserError


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, which saves right after a validation: the monitored value is that of the weights.

    By default, Lightning also saves between validations, by the value of the validation before, and after the hooks
    that end an epoch, in which other callbacks average weights. Here `every_n_train_steps` and `train_time_interval`
    are how often last.ckpt is saved within an epoch (`KeepProgress` saves it, after each epoch in any case). Only with
    `monitor: null` and `save_top_k: -1`, which keep a file of each time, they are how often such a file is saved.

    Args:
        monitor: The value whose best weights are kept: val/loss. None: the latest validation's weights are kept.
        save_last: Save last.ckpt, the latest weights, after each epoch.
        save_top_k: Keep as many of the best; -1: all; 0: none.
        every_n_train_steps: Save last.ckpt every so many steps as well.
        train_time_interval: Save last.ckpt as often as well, in time of training.
        save_on_exception: Save last.ckpt when a training of one process ends in an error.
        save_on_train_epoch_end: Save after the epoch instead of after the validation. None: where a value of the
            training is monitored.
    """

    def __init__(
        self,
        monitor: str | None = None,
        save_last: bool = False,
        save_top_k: int = 1,
        every_n_train_steps: int | None = None,
        train_time_interval: timedelta | None = None,
        save_on_exception: bool = False,
        save_on_train_epoch_end: bool | None = None,
        **kwargs: Any,
    ) -> None:
        if not save_last and (every_n_train_steps or train_time_interval or save_on_exception):
            raise UserError(
                "checkpoint.every_n_train_steps, train_time_interval and save_on_exception save last.ckpt, but "
                "checkpoint.save_last is false: set it to true"
            )
        if save_on_train_epoch_end and monitor and monitor.startswith("val/"):
            raise UserError(
                f"checkpoint.save_on_train_epoch_end could save other weights than those that {monitor} is of: leave "
                "it out, and they are saved right after each validation"
            )
        if save_on_train_epoch_end is None:
            save_on_train_epoch_end = monitor is not None and monitor.startswith("train/")
        every_time = monitor is None and save_top_k == -1
        super().__init__(
            monitor=monitor,
            save_last=False,
            save_top_k=save_top_k,
            every_n_train_steps=every_n_train_steps if every_time else None,
            train_time_interval=train_time_interval if every_time else None,
            save_on_train_epoch_end=save_on_train_epoch_end,
            **kwargs,
        )

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Where no image is held out, the latest weights are kept: there is no value of a validation."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and (self.monitor or "").startswith("val/"):  # others may have no training images to list
            splits = getattr(getattr(trainer, "datamodule", None), "splits", None)
            if splits is not None and not splits.val:
                self.monitor = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The best so far is known in a run that was moved, too: Lightning forgets it where the directory differs."""
        before, now = Path(state_dict["dirpath"]), Path(self.dirpath or "")
        best = now / Path(state_dict["best_model_path"]).name
        if before != now and best.is_file():
            kept = state_dict["best_k_models"].items()
            state_dict = {
                **state_dict,
                "dirpath": self.dirpath,
                "best_model_path": str(best),
                "kth_best_model_path": str(now / Path(state_dict["kth_best_model_path"]).name),
                "best_k_models": {str(now / Path(path).name): value for path, value in kept},
            }
        super().load_state_dict(state_dict)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        if trainer.state.fn != "fit" or state is None or not state["best_model_path"]:
            return
        if not (Path(self.dirpath or "") / Path(state["best_model_path"]).name).is_file():
            rank_zero_info(
                f"The best checkpoint so far, {state['best_model_path']}, is not in {self.dirpath}: the best of what "
                "follows will be there"
            )
