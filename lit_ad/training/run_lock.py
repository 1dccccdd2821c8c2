"""Allow only one training at a time in a run's directory.

A training locks a file in the directory. The system releases the lock when the process ends, in whatever way. Some file
systems do not show the lock to other machines. Therefore the owner also writes a file that names it, and renews its
modification time. If that time is old, another machine takes the owner for dead.
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
_WORKERS_END = 15.0  # seconds; a dead process's workers, which load images, keep its lock until they notice


@dataclass
class Owner:
    """The process that trains in a directory."""

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
        """Whether the owner is surely dead: it was a process of this machine, and does not exist."""
        if not self.is_here or os.name != "posix":
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except OSError:  # the process is another user's
            return False
        return False

    def was_requeued_as(self, new: "Owner") -> bool:
        """Return whether Slurm ended this process and started `new` for the same job, perhaps on another machine."""
        return self.job is not None and self.job == new.job and self.restarts != new.restarts


class RunLock:
    """Keeps other trainings out of a directory.

    Args:
        home: The directory. It is made if it does not exist.
    """

    def __init__(self, home: Path) -> None:
        self.home, self.file, self.record = home, home / LOCK, home / OWNER
        self.lock, self.me = FileLock(self.file), Owner()
        self.acquired, self.released = False, threading.Event()

    def acquire(self) -> None:
        """Take the directory. If its owner is dead, print so and take it over.

        Raises:
            UserError: Another training has it, or it cannot be made.
        """
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            owner = self._read_owner()
            self.lock.acquire(timeout=_WORKERS_END if owner is not None and owner.is_dead else 0)
        except Timeout as error:
            raise self._make_refusal(self._read_owner()) from error
        except NotImplementedError:  # the file system has no locks
            pass
        except OSError as error:
            raise UserError(f"cannot write to the run's directory {self.home}: {error}") from error
        owner = self._read_owner()
        if owner is not None and not owner.was_requeued_as(self.me):
            if self._lives(owner):
                self.lock.release()
                raise self._make_refusal(owner)
            rank_zero_info(f"{self.home} was in use by {owner.name}. That process is dead: this training takes over.")
        with atomic_write(self.record) as temporary:
            temporary.write_text(json.dumps(asdict(self.me)), encoding="utf-8")
        self.acquired = True
        threading.Thread(target=self._renew, daemon=True, name="run lock").start()

    def release(self) -> None:
        """Let other trainings in."""
        if self.acquired:
            self.acquired = False
            self.released.set()
            if self._read_owner() == self.me:
                self.record.unlink(missing_ok=True)
            self.lock.release()

    def _make_refusal(self, owner: Owner | None) -> UserError:
        name = "another process" if owner is None else owner.name
        elsewhere = owner is not None and not owner.is_here
        remedy = f", or, if that process is dead, remove {self.record}" if elsewhere else ""
        return UserError(
            f"{self.home} is in use: {name}, trains there. Wait for its end, or give another "
            f"--trainer.default_root_dir{remedy}"
        )

    def _read_owner(self) -> Owner | None:
        """Return the process that took the directory last and has not left it; None if there is none."""
        try:
            return Owner(**json.loads(self.record.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _lives(self, owner: Owner) -> bool:
        """Return whether the owner is alive. Some file systems let this process take the lock although it is."""
        if owner.is_here:
            return not self.lock.is_locked and not owner.is_dead
        self.file.touch()  # gives the present time by the file system's clock
        return self.file.stat().st_mtime - self.record.stat().st_mtime < DEAD_AFTER

    def _renew(self) -> None:
        while not self.released.wait(_RENEWAL):
            with suppress(OSError):
                os.utime(self.record)
