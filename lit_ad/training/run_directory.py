"""A run's directory: made for it alone, never written over, and not left behind empty."""

import os
import shlex
import shutil
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from lit_ad.errors import UserError
from lit_ad.names import printable
from lit_ad.training.run_lock import LOCK, OWNER, RunLock

TESTED = "metrics.json"  # what a test writes at its end
_OURS = ("config.yaml", "wandb_id", "tensorboard", LOCK, OWNER)  # what a fit writes before its training begins


class RunDirectory:
    """The directory that a command works in. It disappears again where nothing but its configuration came into it.

    Args:
        path: The directory, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.absent = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        self.ours = {name for name in _OURS if not (self.path / name).exists()}
        self.lock: RunLock | None = None

    @classmethod
    def new(cls, method: str) -> "RunDirectory":
        """runs/METHOD/TIME, made by this process alone; on other ranks only named, since the first one's is broadcast.

        Raises:
            UserError: It cannot be made.
        """
        parent, name = Path("runs", method), time.strftime("%Y%m%d-%H%M%S")
        for number in range(1, 10_000):
            directory = cls(parent / (name if number == 1 else f"{name}-{number}"))
            directory.absent = [directory.path, *directory.path.parents[:2]]  # all of them are ours
            if not is_first():
                return directory
            try:
                directory.path.mkdir(parents=True)
                return directory
            except FileExistsError:  # of a run that began in the same second
                continue
            except OSError as error:
                raise UserError(f"cannot make the run's directory {directory.path}: {error}") from error
        raise UserError(f"too many runs in {parent.absolute()} began at {name}")

    def refuse_used(self) -> None:
        """Raise UserError if a training has left something in it."""
        last = self.path / "checkpoints/last.ckpt"
        left = [file for file in (last, self.path / TESTED) if file.is_file()]
        if left and is_first():
            on = f"go on with --ckpt_path {quoted(last)}, " if last.is_file() else ""
            raise UserError(
                f"{self.path} holds a run already ({left[0].name}): {on}give another --trainer.default_root_dir, or "
                "write over it with --overwrite true"
            )

    def take(self) -> None:
        """Keep other trainings out, until `leave`. Raises UserError if one is in it."""
        self.lock = RunLock(self.path)
        self.lock.acquire()

    def leave(self, begun: bool) -> None:
        """Remove the directory where nothing came of it, and let others in. `begun`: whether a step was trained."""
        if is_first() and self.path.is_dir() and (self.lock is None or self.lock.acquired):
            there = list(self.path.iterdir())
            nothing = {path.name for path in there} <= self.ours
            if nothing and not (begun and (self.path / "tensorboard").exists()):
                self._remove(there)
        if self.lock is not None:
            self.lock.release()

    def _remove(self, there: list[Path]) -> None:
        with suppress(OSError):
            for path in there:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            for folder in self.absent:  # the innermost first
                folder.rmdir()


def place_of_test(home: Path) -> Path:
    """Where a test is written: RUN, or where that holds a test already, RUN/test, RUN/test-2 and so on."""
    if not (home / TESTED).exists():
        return home
    names = ("test" if number == 1 else f"test-{number}" for number in count(1))
    return next(home / name for name in names if not (home / name / TESTED).exists())


def is_first() -> bool:
    """Whether this is the first process of its run, as far as can be known before a Trainer is there."""
    return getattr(rank_zero_only, "rank", 0) in (0, None)


def quoted(path: str | os.PathLike[str]) -> str:
    """A path as a shell takes it; one with bytes that cannot be printed as bash and zsh do."""
    text = str(path)
    if printable(text) == text:
        return shlex.quote(text)
    return "$'" + printable(text.replace("\\", "\\\\").replace("'", "\\'")) + "'"
