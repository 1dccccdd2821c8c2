"""Run a function in several processes that start fast."""

import multiprocessing
from collections.abc import Callable
from typing import Any

from torch.multiprocessing import start_processes


def run_processes(function: Callable[..., None], *arguments: Any, processes: int = 2) -> None:
    """Run function(rank, *arguments) in each process, and raise the error of a process that fails.

    The processes are copies of a server, which imports the slow packages once for all tests.
    """
    multiprocessing.set_forkserver_preload(["lit_ad.methods.base", "lit_ad.data.datamodule", "lit_ad.metrics"])
    start_processes(function, arguments, processes, start_method="forkserver")
