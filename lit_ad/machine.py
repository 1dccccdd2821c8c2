"""Ask for the memory, the cores and the devices that this process may use."""

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from lit_ad.errors import UserError


def available_memory() -> int | None:
    """Return how many bytes of memory this process may use: the RAM, or the limit of a container or a Slurm job. None
    if the system does not tell."""
    limits = group_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    with suppress(AttributeError, ValueError, OSError):  # Windows; a system without these names
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(limits, default=None)


def group_limits(of_process: Path, root: Path) -> list[int]:
    """Return the memory limits, in bytes, of a process's control groups and of their parent groups.

    Args:
        of_process: The file in /proc with its groups: lines NUMBER:CONTROLLERS:GROUP (version 1) or 0::GROUP (version
            2).
        root: The folder of the groups. A container may see its own group as the root.
    """
    limits = []
    lines = of_process.read_text(encoding="utf-8").splitlines() if of_process.is_file() else []
    for number, controllers, group in (line.split(":", 2) for line in lines):
        if number != "0" and "memory" not in controllers.split(","):
            continue
        top, name = (root, "memory.max") if number == "0" else (root / "memory", "memory.limit_in_bytes")
        own = top / group.lstrip("/")
        for folder in (own, *(parent for parent in own.parents if parent.is_relative_to(top))):
            with suppress(OSError, ValueError):  # a root has no such file, and "max" means no limit
                limits.append(int((folder / name).read_text(encoding="utf-8")))
    return limits


def peak_memory() -> int | None:
    """Return the most bytes of RAM that this process has used so far. None if the system does not tell."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, where getrusage also counts the process that started this one
        (line,) = (line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes


def keep_memory() -> None:
    """Let glibc keep freed memory for the next step.

    By default it returns the memory of large tensors to Linux, which gives it out again page by page, filled with
    zeros. On a CPU this takes a sixth of a training step, and a quarter of the time of MKD's maps.
    """
    libc = _glibc()
    if libc is not None:
        m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def release_memory() -> None:
    """Let glibc return freed memory to Linux, once: the test needs less than the training before it."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """Return the C library if it is glibc, and not that of another system."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "malloc_trim") else None


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def torch_device(name: Any) -> Any:
    """Return torch's device of a name such as cpu, cuda or cuda:1, with its number if its kind has numbers.

    Raises:
        UserError: This machine, or this PyTorch, has no such device.
    """
    import torch  # here, because a detector from an ONNX file does not need torch

    try:
        device = torch.device(name.lower() if isinstance(name, str) else name)
        tensor = torch.zeros(1, device=device)
        tensor.cpu()
    except Exception as error:  # RuntimeError, AssertionError, NotImplementedError: each kind of device has its own
        available = ["cpu"]
        if torch.accelerator.is_available():
            kind = str(torch.accelerator.current_accelerator())
            available += [f"{kind}:{number}" for number in range(torch.accelerator.device_count())]
        without = str(name).startswith("cuda") and torch.version.cuda is None
        more = "; this PyTorch is built without CUDA" if without else ""
        raise missing_device(name, "PyTorch", available, more) from error
    return tensor.device


def missing_device(name: Any, runtime: str, available: list[str], more: str = "") -> UserError:
    """Return the error for a device that a runtime does not have. `available`: the devices that it has."""
    return UserError(f"there is no device {name!r} for {runtime} on this machine, only {', '.join(available)}{more}")
