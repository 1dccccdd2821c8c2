"""Check and complete a configuration before the trainer, the model and the data are made from it."""

from pathlib import Path
from pydoc import locate
from typing import Any, cast

from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import Namespace

from lit_ad.checkpoint import read_checkpoint
from lit_ad.data.sources.source import Source, check_root
from lit_ad.errors import UserError, check_number
from lit_ad.files import resolve_path, resolve_paths
from lit_ad.lightning_cli.run_words import USAGE
from lit_ad.training.loggers import configure_logger


def list_callbacks(trainer: Namespace) -> list[Any]:
    """Return the value of trainer.callbacks as a list; it may be a list, one callback or None."""
    return trainer.callbacks if isinstance(trainer.callbacks, list) else [trainer.callbacks]


def check_seed(seed: object) -> None:
    """Raise UserError if NumPy would refuse a seed."""
    if isinstance(seed, int):
        check_number("seed_everything", seed, least=0, most=2**32 - 1)


def check_data_root(config: Namespace) -> None:
    """Raise UserError if the folder of images is missing, before the teacher's weights are downloaded."""
    source = config.data.source
    if config.get("data.predict_path") is None and "init_args" in source:
        check_root(cast(type[Source], locate(source.class_path)), source.init_args.get("root"))


def check_fit(config: Namespace) -> None:
    """Raise UserError if fit would train nothing, or would end without a threshold."""
    check_lengths(config)
    check_epochs_left(config)


def check_lengths(config: Namespace) -> None:
    """Raise UserError if fit would end without a trained model, or without a threshold."""
    trainer = config.trainer
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if trainer[name] == 0:
            raise UserError(f"trainer.{name} is 0, so nothing would be trained: give 1 or more")
    if trainer.limit_val_batches == 0:
        raise UserError("trainer.limit_val_batches is 0, so there would be no threshold and no best.ckpt: leave it out")


def check_epochs_left(config: Namespace) -> None:
    """Raise UserError if the checkpoint to resume from has more epochs or steps than the trainer's limit."""
    if not config.ckpt_path:
        return
    checkpoint = read_checkpoint(config.ckpt_path)
    finished, steps = int(checkpoint.get("epoch", -1)) + 1, int(checkpoint.get("global_step", 0))
    if config.trainer.max_steps not in (None, -1) and steps > config.trainer.max_steps:
        raise UserError(
            f"{config.ckpt_path} is of step {steps}, but trainer.max_steps is {config.trainer.max_steps}: give a "
            "larger one, or test the checkpoint with lit-ad test"
        )
    if config.trainer.max_epochs not in (None, -1) and finished > config.trainer.max_epochs:
        raise UserError(
            f"{config.ckpt_path} is of epoch {finished}, but trainer.max_epochs is {config.trainer.max_epochs}: give a "
            "larger one, or test the checkpoint with lit-ad test"
        )


def check_model_and_images(command: str, config: Namespace) -> None:
    """Raise UserError if validate, test or predict has no trained model, or predict has no images."""
    if not config.ckpt_path:
        raise UserError(f"{command} needs a trained model: lit-ad {command} {USAGE[command]}")
    if command == "validate" and config.data.split.folds is not None:
        raise UserError(
            "validate needs held-out images, but with decision.folds all images are used for training: use lit-ad test "
            "RUN"
        )
    if command == "predict" and not config.data.predict_path:
        raise UserError(
            "predict needs images: lit-ad predict RUN IMAGES, or --data.predict_path IMAGES. For the test images use "
            "lit-ad test RUN"
        )


def set_validations(trainer: Namespace) -> None:
    """Choose when fit validates, where the user did not."""
    skip_sanity_check(trainer)
    stop_after_validation(trainer)


def skip_sanity_check(trainer: Namespace) -> None:
    """Turn off Lightning's validation of two batches before training, unless the user set it.

    Two batches are often all held-out images. The validation after the first epoch finds the same errors. Where the
    first epoch has no validation, the setting stays.
    """
    if trainer.num_sanity_val_steps is None and trainer.check_val_every_n_epoch == 1:
        trainer.num_sanity_val_steps = 0


def stop_after_validation(trainer: Namespace) -> None:
    """Let EarlyStopping check a value of the validation right after it, and not at the end of the epoch.

    best.ckpt is saved between the two. A training that resumes from it would find no value at the end of the epoch.
    """
    for callback in list_callbacks(trainer):
        if isinstance(callback, Namespace) and callback.class_path.endswith(".EarlyStopping"):
            arguments = callback.init_args
            if arguments.check_on_train_epoch_end is None and arguments.monitor.startswith("val/"):
                arguments.check_on_train_epoch_end = False


def set_loggers(config: Namespace, home: Path) -> None:
    """Make trainer.logger from `dashboards`. Without both, there is no logger: Lightning's default would leave
    lightning_logs/version_N beside the run. `home`: the run's directory.

    Raises UserError if both are given.
    """
    if config.dashboards:
        if config.trainer.logger not in (None, True):
            raise UserError("dashboards and trainer.logger both set the loggers: give one of them")
        config.trainer.logger = [configure_logger(name, home) for name in config.dashboards]
    elif config.trainer.logger is None:
        config.trainer.logger = False


def wants_progress(trainer: Namespace) -> bool:
    """Return whether to show our own line of progress: the user did not turn it off, and gave no other bar."""
    others = any(isinstance(callback, ProgressBar) for callback in list_callbacks(trainer))
    return trainer.enable_progress_bar is not False and not others


def make_paths_absolute(config: Namespace) -> None:
    """Make the paths in a configuration absolute, so that it works from any directory; also weights, which are text."""
    resolve_paths(config)
    for key, value in list(config.items()):
        if key.endswith("weights") and isinstance(value, str) and Path(value).is_file():  # otherwise hub or pip:PACKAGE
            config[key] = str(resolve_path(value))
