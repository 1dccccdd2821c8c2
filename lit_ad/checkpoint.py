"""Checkpoint files: written whole or not at all, read as data and never as code."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.cloud_io import get_filesystem

from lit_ad.errors import UserError, killed_worker
from lit_ad.files import atomic_write, resolve_path
from lit_ad.integrity import check_zip, why_unreadable


class CheckpointFile(TorchCheckpointIO):
    """A run's earlier checkpoint stays until the next one is on disk. Addresses such as s3:// are left to Lightning."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None):  # type: ignore[no-untyped-def]
        """Raises UserError that names the file if it cannot be written."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            remedy = ". Earlier checkpoints are whole: make room, and go on from the last one with --ckpt_path"
            write_checkpoint(checkpoint, Path(path), remedy)

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: Any = True):  # type: ignore[no-untyped-def]
        """Always `weights_only`. Raises UserError if it is not a whole checkpoint."""
        return read_checkpoint(path, map_location)


def changed_arguments(checkpoint: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The arguments of a model that differ from those that it had in a checkpoint: name -> (there, now).

    The view, and weights of teachers, are left out: they are compared by what they are and not by their names.
    """
    then = checkpoint.get("hyper_parameters", {})
    pairs = {
        name: (plain(then[name]), plain(now))
        for name, now in arguments.items()
        if name in then and not name.startswith("_") and name != "view" and not name.endswith("weights")
    }
    return {name: (there, now) for name, (there, now) in pairs.items() if there != now}


def plain(value: Any) -> Any:
    """An argument as it may come out of a file: tuples as lists, paths as strings."""
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def write_checkpoint(checkpoint: dict[str, Any], path: Path, remedy: str = "") -> None:
    """Raises UserError that names the file, and the remedy, if it cannot be written."""
    try:
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
    except (UserError, RuntimeError) as error:  # torch's writer says that it failed, not always why
        if killed := killed_worker(error):
            raise killed from error
        reason = error if isinstance(error, UserError) else f"cannot write {path}: {error.__context__ or error}"
        raise UserError(f"{reason}{remedy}") from error


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """What a checkpoint holds, as tensors and plain values: a pickle could run any code.

    Its checksums are looked at first, which takes 0.3 s for each GiB.

    Args:
        path: A file, or an address such as s3://.
        map_location: The device of the tensors.

    Raises:
        UserError: There is none, it is damaged, or it holds anything else.
    """
    if "://" not in str(path):
        path = resolve_path(path)
        if not path.is_file():
            inside = path / "checkpoints" / "last.ckpt"
            if inside.is_file():
                raise UserError(f"{path} is a run, and a checkpoint of it is asked for: give {inside}")
            raise UserError(f"there is no checkpoint {path}")
    try:
        with get_filesystem(path).open(str(path), "rb") as file:
            check_zip(file, f"the checkpoint {path}")
            file.seek(0)
            checkpoint = torch.load(file, map_location, weights_only=True)
    except UserError:
        raise
    except Exception as error:  # zip, pickle and torch raise all sorts
        raise UserError(f"cannot read the checkpoint {path}: {why_unreadable(error)}") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise UserError(f"{path} is no checkpoint of lit_ad: it holds no state_dict")
    return checkpoint
