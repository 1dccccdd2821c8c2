"""A run's directory: made for it alone, never written over."""

import os
import shlex
import time
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from lit_ad.errors import UserError


def new_directory(method: str) -> Path:
    """runs/METHOD/TIME, made by this process alone; on other ranks only named, since the first one's is broadcast.

    Raises:
        UserError: It cannot be made.
    """
    parent, name = Path("runs", method), time.strftime("%Y%m%d-%H%M%S")
    if getattr(rank_zero_only, "rank", 0) not in (0, None):
        return parent / name
    for number in range(1, 10_000):
        home = parent / (name if number == 1 else f"{name}-{number}")
        try:
            home.mkdir(parents=True)
            return home
        except FileExistsError:  # of a run that began in the same second
            continue
        except OSError as error:
            raise UserError(f"cannot make the run's directory {home.absolute()}: {error}") from error
    raise UserError(f"too many runs in {parent.absolute()} began at {name}")


def refuse_used(home: Path) -> None:
    """Raises UserError if a training has left something in a directory."""
    if getattr(rank_zero_only, "rank", 0) not in (0, None):
        return
    left = [file for file in (home / "checkpoints/last.ckpt", home / "metrics.json") if file.is_file()]
    if left:
        last = home / "checkpoints/last.ckpt"
        on = f"go on with --ckpt_path {quoted(last)}, " if last.is_file() else ""
        raise UserError(
            f"{home} holds a run already ({left[0].name}): {on}give another --trainer.default_root_dir, or write "
            "over it with --overwrite true"
        )


def quoted(path: str | os.PathLike[str]) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(path))
