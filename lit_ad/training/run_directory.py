"""The directory of a run. Each run has its own; a later run never overwrites it, and an empty one is removed."""

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

TESTED = "metrics.json"  # a test writes this file at its end
_OURS = ("config.yaml", "wandb_id", "tensorboard", LOCK, OWNER)  # a fit writes these before its training begins


class RunDirectory:
    """The directory that a command works in. `leave` removes it if it holds only what a fit writes before training.

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
        """Make runs/METHOD/TIME, and return it. Only the first process makes it; others later get its name by
        broadcast.

        Raises:
            UserError: It cannot be made.
        """
        parent, name = Path("runs", method), time.strftime("%Y%m%d-%H%M%S")
        for number in range(1, 10_000):
            directory = cls(parent / (name if number == 1 else f"{name}-{number}"))
            directory.absent = [directory.path, *directory.path.parents[:2]]  # `leave` may remove these if empty
            if not is_first():
                return directory
            try:
                directory.path.mkdir(parents=True)
                return directory
            except FileExistsError:  # another run began in the same second
                continue
            except OSError as error:
                raise UserError(f"cannot make the run's directory {directory.path}: {error}") from error
        raise UserError(f"too many runs in {parent.absolute()} began at {name}")

    def refuse_used(self) -> None:
        """Raise UserError if the directory holds a checkpoint or the results of a test."""
        last = self.path / "checkpoints/last.ckpt"
        existing = [file for file in (last, self.path / TESTED) if file.is_file()]
        if existing and is_first():
            resume = f"go on with --ckpt_path {quote_path(last)}, " if last.is_file() else ""
            raise UserError(
                f"{self.path} holds a run already ({existing[0].name}): {resume}give another "
                "--trainer.default_root_dir, or overwrite it with --overwrite true"
            )

    def take(self) -> None:
        """Keep other trainings out until `leave`. Raises UserError if another one works in it."""
        self.lock = RunLock(self.path)
        self.lock.acquire()

    def leave(self, begun: bool) -> None:
        """Remove the directory if it has no results, and let others in. `begun`: whether a step was trained."""
        if is_first() and self.path.is_dir() and (self.lock is None or self.lock.acquired):
            content = list(self.path.iterdir())
            no_results = {path.name for path in content} <= self.ours
            if no_results and not (begun and (self.path / "tensorboard").exists()):
                self._remove(content)
        if self.lock is not None:
            self.lock.release()

    def _remove(self, content: list[Path]) -> None:
        with suppress(OSError):
            for path in content:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            for folder in self.absent:  # the innermost first
                folder.rmdir()


def find_test_directory(home: Path) -> Path:
    """Return the directory for a test's results: RUN, or RUN/test, RUN/test-2, ..., the first without a test."""
    if not (home / TESTED).exists():
        return home
    names = ("test" if number == 1 else f"test-{number}" for number in count(1))
    return next(home / name for name in names if not (home / name / TESTED).exists())


def is_first() -> bool:
    """Return whether this is the first process of its run, as far as that is known before a Trainer exists."""
    return getattr(rank_zero_only, "rank", 0) in (0, None)


def quote_path(path: str | os.PathLike[str]) -> str:
    """Quote a path for a shell. A path with bytes that cannot be printed gets the form $'...', which bash and zsh
    read."""
    text = str(path)
    if printable(text) == text:
        return shlex.quote(text)
    return "$'" + printable(text.replace("\\", "\\\\").replace("'", "\\'")) + "'"
