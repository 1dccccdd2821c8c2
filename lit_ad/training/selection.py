"""List what a training chooses on the held-out images, beside the threshold."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint


def list_choices(trainer: L.Trainer, method: L.LightningModule, validations: int, scaled: bool) -> list[str]:
    """Return one phrase for each thing that this training chooses on the held-out images.

    Args:
        trainer: The trainer, in a validation of a fit.
        method: The trained method.
        validations: Number of validations of this fit so far, including this one.
        scaled: Whether the method's `calibrate` uses held-out images.
    """
    phrases = []
    # A single validation, at the end, chooses nothing. A resumed training may have had other validations before.
    if validations > 1 or not _is_last_validation(trainer) or trainer.ckpt_path:
        for what, monitor in _list_monitors(trainer):
            if not monitor.startswith("train"):
                phrases.append(f"{what} (by {monitor})")
    if scaled:
        phrases.append(f"the scale of {type(method).__name__}'s scores (by calibrate)")
    return list(dict.fromkeys(phrases))


def _is_last_validation(trainer: L.Trainer) -> bool:
    """Return whether the training ends with this validation; False if that is unknown."""
    if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
        return True
    epochs = trainer.max_epochs
    return bool(trainer.is_last_batch and epochs is not None and trainer.current_epoch + 1 == epochs)


def _list_monitors(trainer: L.Trainer) -> list[tuple[str, str]]:
    """Return each thing that a logged value chooses, and the value's name."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    pairs = [
        ("the epoch of the best checkpoint", callback.monitor)
        for callback in callbacks
        if isinstance(callback, ModelCheckpoint) and callback.save_top_k != 0
    ]
    pairs += [
        ("the epoch that ended the training", stopper.monitor)
        for stopper in callbacks
        if isinstance(stopper, EarlyStopping)
    ]
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau:
            pairs.append(("the learning rate", config.monitor))
    return [(what, monitor) for what, monitor in pairs if monitor]
