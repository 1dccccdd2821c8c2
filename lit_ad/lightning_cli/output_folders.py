"""Folders that a run writes to late, looked at before it begins."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from lit_ad.files import check_writable
from lit_ad.lightning_cli.settings import list_callbacks
from lit_ad.training.run_directory import is_first


def check_output_folders(config: Namespace) -> None:
    """Raises UserError where a folder of checkpoints or profiles cannot be written to: they are written after an epoch,
    or at the end."""
    if not is_first():
        return
    for setting, folder in list_folders(config):
        if folder and "://" not in str(folder):
            check_writable(Path(folder), setting)


def list_folders(config: Namespace) -> Iterator[tuple[str, Any]]:
    """Yield each setting of a folder, and its value."""
    trainer = config.trainer
    yield "checkpoint.dirpath", config.checkpoint.dirpath
    callbacks = [("callbacks", callback) for callback in list_callbacks(trainer)]
    for setting, made in [("profiler", trainer.profiler), *callbacks]:
        if isinstance(made, Namespace) and "init_args" in made:
            yield f"trainer.{setting}: {made.class_path}.dirpath", made.init_args.get("dirpath")
