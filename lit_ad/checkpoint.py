"""Write checkpoint files whole or not at all, and read them as data, never as code."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.cloud_io import get_filesystem

from lit_ad.errors import UserError, explain_killed_worker
from lit_ad.files import atomic_write, resolve_path
from lit_ad.integrity import check_zip, why_unreadable


class CheckpointFile(TorchCheckpointIO):
    """Writes and reads Lightning's checkpoints: the old checkpoint stays until the new one is on disk.

    Addresses such as s3:// are left to Lightning.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None):  # type: ignore[no-untyped-def]
        """Write a checkpoint. Raises UserError, which names the file, if it cannot be written."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            remedy = ". Earlier checkpoints are complete: make room, and go on from the last one with --ckpt_path"
            write_checkpoint(checkpoint, Path(path), remedy)

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: Any = True):  # type: ignore[no-untyped-def]
        """Read a checkpoint, always as `weights_only`. Raises UserError if it is not a complete checkpoint."""
        return read_checkpoint(path, map_location)


def find_changed_arguments(checkpoint: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the arguments of a model that differ from those in a checkpoint: name -> (in the checkpoint, now).

    The view and the teachers' weights are left out: they are compared by their content elsewhere, not by their names.
    """
    saved = checkpoint.get("hyper_parameters", {})
    pairs = {
        name: (_as_plain(saved[name]), _as_plain(now))
        for name, now in arguments.items()
        if name in saved and not name.startswith("_") and name != "view" and not name.endswith("weights")
    }
    return {name: (before, now) for name, (before, now) in pairs.items() if before != now}


def _as_plain(value: Any) -> Any:
    """Return an argument as a file may hold it: tuples as lists, paths as strings."""
    if isinstance(value, tuple | list):
        return [_as_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def write_checkpoint(checkpoint: dict[str, Any], path: Path, remedy: str = "") -> None:
    """Write a checkpoint whole or not at all. Raises UserError, which names the file and the remedy, if it fails."""
    try:
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
    except (UserError, RuntimeError) as error:  # torch's RuntimeError does not always give the reason
        if killed := explain_killed_worker(error):
            raise killed from error
        reason = error if isinstance(error, UserError) else f"cannot write {path}: {error.__context__ or error}"
        raise UserError(f"{reason}{remedy}") from error


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint: tensors and plain values only, because a pickle could run any code.

    Its checksums are checked first, which takes 0.3 s for each GiB.

    Args:
        path: A file, or an address such as s3://.
        map_location: The device of the tensors.

    Raises:
        UserError: There is no such file, it is damaged, or it is no checkpoint.
    """
    if "://" not in str(path):
        path = resolve_path(path)
        if not path.is_file():
            last = path / "checkpoints" / "last.ckpt"
            if last.is_file():
                raise UserError(f"{path} is a run directory, and a checkpoint is needed: give {last}")
            raise UserError(f"there is no checkpoint {path}")
    try:
        with get_filesystem(path).open(str(path), "rb") as file:
            check_zip(file, f"the checkpoint {path}")
            file.seek(0)
            checkpoint = torch.load(file, map_location, weights_only=True)
    except UserError:
        raise
    except Exception as error:  # zip, pickle and torch raise many kinds
        raise UserError(f"cannot read the checkpoint {path}: {why_unreadable(error)}") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise UserError(f"{path} is no checkpoint of lit_ad: it holds no state_dict")
    return checkpoint
