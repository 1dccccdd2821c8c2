"""The devices and the memory that this process may use are found, and freed memory is kept and released."""

import multiprocessing
import os
import sys
from pathlib import Path

import pytest
import torch

from lit_ad.errors import UserError
from lit_ad.machine import available_memory, group_limits, keep_memory, release_memory, torch_device


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "warp", "meta", "", -1])
def test_a_missing_device_is_refused(name: object) -> None:
    with pytest.raises(UserError, match=rf"there is no device {name!r} for PyTorch on this machine, only cpu"):
        torch_device(name)


def test_the_cpu_is_a_device() -> None:
    assert torch_device("CPU") == torch_device(torch.device("cpu")) == torch.device("cpu")


def test_the_memory_is_the_lowest_limit_of_the_control_groups(tmp_path: Path) -> None:
    """Containers and Slurm jobs have such groups, in two versions of Linux's files."""
    of_process, root = tmp_path / "cgroup", tmp_path / "groups"

    def put(file: str, text: str) -> None:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)

    put("slurm/memory.max", "8000\n")
    put("slurm/job 1:2/memory.max", "max\n")
    put("memory/docker/memory.limit_in_bytes", "5000\n")
    put("memory/memory.limit_in_bytes", "9223372036854771712\n")
    put("cpu/docker/memory.limit_in_bytes", "1\n")  # of another kind
    for lines, limits in (
        ("0::/slurm/job 1:2\n", [8000]),
        ("0::/\n", []),
        ("5:cpu:/docker\n4:cpuset,memory:/docker/inner\n0::/elsewhere\n", [5000, 9223372036854771712]),
        ("", []),
    ):
        of_process.write_text(lines)
        assert group_limits(of_process, root) == limits
    assert group_limits(tmp_path / "none", root) == []
    have = available_memory()
    assert have is not None and 0 < have <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """The bytes of this process that are in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def free_a_tensor() -> list[int]:
    """Return the memory at first, with a tensor of 256 MB freed below another one, and released."""
    keep_memory()
    memory = [resident()]
    tensor = torch.ones(64_000_000)
    above = torch.ones(1000)  # the heap does not shrink by itself below it
    del tensor
    memory.append(resident())
    release_memory()
    return [*memory, resident() * bool(above[0])]


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps memory")
def test_freed_memory_is_kept_until_it_is_released() -> None:
    with multiprocessing.get_context("forkserver").Pool(1) as pool:  # the setting stays for a process's whole life
        first, kept, released = pool.apply(free_a_tensor)
    assert kept - first > 200e6
    assert released - first < 50e6
