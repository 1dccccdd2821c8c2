"""RUN/record.json: where a run was trained and tested, time and memory it took, the held-out scores of its decision."""

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
    """What training or testing took."""

    seconds: float
    images: int  # looked at by all processes: in training, those of all epochs
    memory: int | None  # bytes, the most that one process had in its life so far; None where the system does not tell
    gpu_memory: int | None  # bytes, the most that one process had on its GPU; None without one
    environment: dict[str, str] = field(default_factory=dict)
    resumed: bool = False  # whether it went on from a checkpoint: then what came before is not in here


@dataclass(frozen=True)
class Record:
    """Of a run; what is not known is None or empty."""

    method: str
    training: Took | None = None
    test: Took | None = None
    held_out: dict[str, list[float]] = field(default_factory=dict)  # nominal scores by category, as Decision has them

    def save(self, home: Path) -> None:
        """Write it to a run's directory. Raises UserError if that fails."""
        with atomic_write(home / RECORD) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, home: Path) -> "Record | None":
        """That of a run's directory; None if there is none. Raises UserError if the file is not one of these."""
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
    """Where and when this runs, in words: a line each. `devices`: the accelerators' names."""
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
    """Its name, where the system tells."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())
