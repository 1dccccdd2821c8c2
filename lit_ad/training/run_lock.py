"""One training at a time in a run's directory.

The system holds the lock of a file while the process that took it lives, and lets go of it however that process ends.
Not every file system tells other machines, though, so that the owner also writes who it is, and renews the time of that
file: from another machine, a time of long ago says that the owner is dead.
"""

import json
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_info

from lit_ad.errors import UserError
from lit_ad.files import atomic_write

LOCK, OWNER = ".run.lock", ".run_owner.json"
_RENEWAL = 60.0  # seconds
DEAD_AFTER = 240.0  # seconds without a renewal
_WORKERS_END = 15.0  # seconds: workers that load images hold a lock on until they see that their process is dead


@dataclass
class Owner:
    """Who trains in a directory."""

    host: str = field(default_factory=socket.gethostname)
    process: int = field(default_factory=os.getpid)
    began: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S"))
    job: str | None = field(default_factory=lambda: os.environ.get("SLURM_JOB_ID"))
    restarts: str = field(default_factory=lambda: os.environ.get("SLURM_RESTART_COUNT", "0"))

    @property
    def name(self) -> str:
        job = "" if self.job is None else f" (Slurm job {self.job})"
        return f"process {self.process} on {self.host}{job}, which began at {self.began}"

    @property
    def is_here(self) -> bool:
        return self.host == socket.gethostname()

    @property
    def is_dead(self) -> bool:
        """Whether it is known to be dead: a process of this machine that is not there."""
        if not self.is_here or os.name != "posix":
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except OSError:  # another user's
            return False
        return False

    def was_requeued_as(self, new: "Owner") -> bool:
        """Whether Slurm has ended this one and begun the new one in its place, perhaps on another machine."""
        return self.job is not None and self.job == new.job and self.restarts != new.restarts


class RunLock:
    """Keeps other trainings out of a directory.

    Args:
        home: The directory; it is made if it is not there.
    """

    def __init__(self, home: Path) -> None:
        self.home, self.file, self.record = home, home / LOCK, home / OWNER
        self.lock, self.me = FileLock(self.file), Owner()
        self.acquired, self.released = False, threading.Event()

    def acquire(self) -> None:
        """Take the directory, also from an owner that has died, which is told.

        Raises:
            UserError: Another training has it, or it cannot be made.
        """
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            owner = self._owner()
            self.lock.acquire(timeout=_WORKERS_END if owner is not None and owner.is_dead else 0)
        except Timeout as error:
            raise self._refusal(self._owner()) from error
        except NotImplementedError:  # a file system without locks
            pass
        except OSError as error:
            raise UserError(f"cannot write to the run's directory {self.home}: {error}") from error
        owner = self._owner()
        if owner is not None and not owner.was_requeued_as(self.me):
            if self._lives(owner):
                self.lock.release()
                raise self._refusal(owner)
            rank_zero_info(f"{self.home} was in use by {owner.name}. That one is dead: this training takes over.")
        with atomic_write(self.record) as temporary:
            temporary.write_text(json.dumps(asdict(self.me)), encoding="utf-8")
        self.acquired = True
        threading.Thread(target=self._renew, daemon=True, name="run lock").start()

    def release(self) -> None:
        """Let others in."""
        if self.acquired:
            self.acquired = False
            self.released.set()
            if self._owner() == self.me:
                self.record.unlink(missing_ok=True)
            self.lock.release()

    def _refusal(self, owner: Owner | None) -> UserError:
        name = "another process" if owner is None else owner.name
        elsewhere = owner is not None and not owner.is_here
        remedy = f", or, if that one is dead, remove {self.record}" if elsewhere else ""
        return UserError(
            f"{self.home} is in use: {name}, trains there. Wait for its end, or give another "
            f"--trainer.default_root_dir{remedy}"
        )

    def _owner(self) -> Owner | None:
        """Who took the directory last and has not left it."""
        try:
            return Owner(**json.loads(self.record.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _lives(self, owner: Owner) -> bool:
        """Whether the owner lives, though this process may have the lock."""
        if owner.is_here:
            return not self.lock.is_locked and not owner.is_dead
        self.file.touch()  # by the clock of the file system
        return self.file.stat().st_mtime - self.record.stat().st_mtime < DEAD_AFTER

    def _renew(self) -> None:
        while not self.released.wait(_RENEWAL):
            with suppress(OSError):
                os.utime(self.record)
