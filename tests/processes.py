"""Run a function in several processes that start fast."""

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

from torch.multiprocessing import start_processes

from tests.serving import find_free_port


def run_processes(function: Callable[..., None], *arguments: Any, processes: int = 2) -> None:
    """Run function(rank, *arguments) in each process, and raise the error of a process that fails.

    The processes are copies of a server, which imports the slow packages once for all tests.
    """
    multiprocessing.set_forkserver_preload(["lit_ad.methods.base", "lit_ad.data.datamodule", "lit_ad.metrics"])
    start_processes(function, arguments, processes, start_method="forkserver")


def run_as_launched(function: Callable[..., None], *arguments: Any, processes: int = 2) -> None:
    """Run the same with the variables that a launcher sets: a Trainer in the function joins the processes."""
    run_processes(_launched, find_free_port(), processes, function, *arguments, processes=processes)


def _launched(rank: int, port: int, processes: int, function: Callable[..., None], *arguments: Any) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(processes))
    os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", OMP_NUM_THREADS="1")
    function(rank, *arguments)
