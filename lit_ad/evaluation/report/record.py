"""RUN/record.json: time, memory and environment of a training and a test, and the held-out scores of the decision."""

import json
import os
import platform
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lit_ad.errors import UserError
from lit_ad.files import atomic_write
from lit_ad.machine import cores

RECORD = "record.json"
_PACKAGES = ("lit-ad", "torch", "lightning", "timm", "torchmetrics", "numpy", "opencv-python-headless", "pillow")


@dataclass(frozen=True)
class Took:
    """Time and memory of a training or a test."""

    seconds: float
    images: int  # number of images of all processes; in training, of all epochs
    memory: int | None  # bytes, the peak of one process since its start; None if the system does not tell
    gpu_memory: int | None  # bytes, the peak of one process on its GPU; None without a GPU
    environment: dict[str, str] = field(default_factory=dict)
    resumed: bool = False  # whether a checkpoint was resumed: the time before it does not count


@dataclass(frozen=True)
class Record:
    """The record of a run. An unknown value is None or empty."""

    method: str
    training: Took | None = None
    test: Took | None = None
    held_out: dict[str, list[float]] = field(default_factory=dict)  # nominal scores by category, as Decision has them

    def save(self, home: Path) -> None:
        """Write the record to a run's directory. Raises UserError if that fails."""
        with atomic_write(home / RECORD) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, home: Path) -> "Record | None":
        """Read the record in a run's directory; None if there is none. Raises UserError if the file is no record."""
        file = home / RECORD
        if not file.is_file():
            return None
        try:
            values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            for name in ("training", "test"):
                values[name] = None if values[name] is None else Took(**values[name])
            return cls(**values)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is no record of a run ({error}): remove it, or test the run again") from error


def environment(processes: int, devices: list[str]) -> dict[str, str]:
    """Return the date, system, devices and package versions, in words.

    Args:
        processes: Number of processes.
        devices: Names of the accelerators.
    """
    versions = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "system": platform.platform(),
        "processor": processor(),
        "cores": f"{cores()}, OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}"
        if "OMP_NUM_THREADS" in os.environ
        else f"{cores()}",
        "accelerator": ", ".join(devices) or "none",
        "processes": str(processes),
        "python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # a fork under another name
            continue
    return versions


def processor() -> str:
    """Return the processor's name, if the system tells it."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())
