"""Save best.ckpt, the weights that were the best so far in a validation."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from lit_ad.errors import UserError


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, but it saves right after a validation, so that the monitored value belongs to the
    saved weights.

    Lightning's own also saves between validations, by the value of the previous validation, and at an epoch's end, when
    other callbacks may have averaged the weights.

    `every_n_train_steps` and `train_time_interval` set how often `KeepProgress` saves last.ckpt within an epoch. With
    `monitor: null` and `save_top_k: -1`, every checkpoint is kept, and they set how often one is saved.

    Args:
        monitor: Logged value whose best weights are kept: val/loss. None: the weights of the latest validation.
        save_last: Save last.ckpt, the latest weights, after each epoch.
        save_top_k: Number of best checkpoints to keep; -1: all; 0: none.
        every_n_train_steps: Save last.ckpt also every so many steps.
        train_time_interval: Save last.ckpt also after each such time of training.
        save_on_exception: Save last.ckpt if a training of one process ends in an error.
        save_on_train_epoch_end: Save after the epoch instead of after the validation. None: only if `monitor` is a
            value of the training.
        **kwargs: Further arguments of ModelCheckpoint.
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
                f"checkpoint.save_on_train_epoch_end could save other weights than those whose {monitor} was measured: "
                "remove it, and each validation's weights are saved at once"
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
        """Keep the latest weights if no image is held out: then no validation measures a value."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit" and (self.monitor or "").startswith("val/"):  # a test's data may have no training images
            splits = getattr(getattr(trainer, "datamodule", None), "splits", None)
            if splits is not None and not splits.val:
                self.monitor = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best checkpoint so far, also in a run that was moved: Lightning forgets it in another
        directory."""
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
                f"The best checkpoint so far, {state['best_model_path']}, is not in {self.dirpath}: from now on, the "
                "best of the following epochs is kept there"
            )
