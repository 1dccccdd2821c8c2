"""Check, before a run begins, the folders that it writes to late."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from lit_ad.files import check_writable
from lit_ad.lightning_cli.settings import list_callbacks
from lit_ad.training.run_directory import is_first


def check_output_folders(config: Namespace) -> None:
    """Raise UserError if a folder for checkpoints or profiles cannot be written to.

    Otherwise the error would come after an epoch, or at the end.
    """
    if not is_first():
        return
    for setting, folder in list_folders(config):
        if folder and "://" not in str(folder):
            check_writable(Path(folder), setting)


def list_folders(config: Namespace) -> Iterator[tuple[str, Any]]:
    """Yield the name and the value of each setting that is a folder to write."""
    trainer = config.trainer
    yield "checkpoint.dirpath", config.checkpoint.dirpath
    callbacks = [("callbacks", callback) for callback in list_callbacks(trainer)]
    for setting, made in [("profiler", trainer.profiler), *callbacks]:
        if isinstance(made, Namespace) and "init_args" in made:
            yield f"trainer.{setting}: {made.class_path}.dirpath", made.init_args.get("dirpath")
