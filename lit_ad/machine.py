"""What this process may have of the machine it runs on."""

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from lit_ad.errors import UserError


def memory() -> int | None:
    """Bytes that this process may have, where the system tells: the RAM, or the limit of a container or a Slurm job."""
    limits = group_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    with suppress(AttributeError, ValueError, OSError):  # Windows; a system without these names
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(limits, default=None)


def group_limits(of_process: Path, root: Path) -> list[int]:
    """The memory limits, in bytes, of the control groups that a process is in, and of those around them.

    Args:
        of_process: Its file in /proc: a line each, NUMBER:CONTROLLERS:GROUP, of version 1, or 0::GROUP of version 2.
        root: Where the groups are. A container may see its own one as the root.
    """
    limits = []
    lines = of_process.read_text(encoding="utf-8").splitlines() if of_process.is_file() else []
    for number, controllers, group in (line.split(":", 2) for line in lines):
        if number != "0" and "memory" not in controllers.split(","):
            continue
        top, name = (root, "memory.max") if number == "0" else (root / "memory", "memory.limit_in_bytes")
        own = top / group.lstrip("/")
        for folder in (own, *(parent for parent in own.parents if parent.is_relative_to(top))):
            with suppress(OSError, ValueError):  # a root has no file; "max" is no limit
                limits.append(int((folder / name).read_text(encoding="utf-8")))
    return limits


def peak_memory() -> int | None:
    """Bytes of RAM that this process had at most in its life so far, where the system tells."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, whose getrusage counts the process that started this one too
        (line,) = (line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes


def keep_memory() -> None:
    """Have glibc reuse what a step frees. It returns large tensors to Linux, which then hands them out page by page,
    filled with zeros: on a CPU a sixth of a training step, a quarter of MKD's maps."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
            libc.mallopt(m_mmap_max, 0)
            libc.mallopt(m_trim_threshold, 2**31 - 1)


def cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def torch_device(name: Any) -> Any:
    """The device of torch with this name, such as cpu, cuda or cuda:1. Of a kind with several, with its number.

    Raises:
        UserError: This machine, or this PyTorch, has no such device.
    """
    import torch  # here, because a detector of an ONNX file has none

    try:
        device = torch.device(name.lower() if isinstance(name, str) else name)
        tensor = torch.zeros(1, device=device)
        tensor.cpu()
    except Exception as error:  # RuntimeError, AssertionError, NotImplementedError: each kind of device has its own
        there = ["cpu"]
        if torch.accelerator.is_available():
            kind = str(torch.accelerator.current_accelerator())
            there += [f"{kind}:{number}" for number in range(torch.accelerator.device_count())]
        without = str(name).startswith("cuda") and torch.version.cuda is None
        more = "; this PyTorch is built without CUDA" if without else ""
        raise no_device(name, "PyTorch", there, more) from error
    return tensor.device


def no_device(name: Any, runtime: str, there: list[str], more: str = "") -> UserError:
    """The error of a device that a runtime does not have. `there`: the devices that it has."""
    return UserError(f"there is no device {name!r} for {runtime} on this machine, only {', '.join(there)}{more}")
