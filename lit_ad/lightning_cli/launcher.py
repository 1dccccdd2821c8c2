"""Let processes that torchrun or srun started train together, and never as separate trainings in one directory."""

import os
import re
from typing import NamedTuple

import torch
from jsonargparse import Namespace

from lit_ad.counts import format_count
from lit_ad.errors import UserError

_PLACES = (  # environment variables that tell a process its place among those of a launcher
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS"),
)


class Launch(NamedTuple):
    """A start of several processes by a launcher: its name, and the numbers of processes and of nodes."""

    launcher: str
    processes: int
    nodes: int

    @property
    def devices(self) -> int:
        """The number of processes on each node."""
        return self.processes // self.nodes


def find_launch() -> Launch | None:
    """Return how torchrun or srun started this process, or None if neither did.

    Slurm also puts the number of tasks into the environment of a batch script, which is a single process. Only a step,
    which srun makes, runs that many processes.
    """
    variables = os.environ
    if "TORCHELASTIC_RUN_ID" in variables:
        return Launch("torchrun", int(variables["WORLD_SIZE"]), int(variables.get("GROUP_WORLD_SIZE", 1)))
    if variables.get("SLURM_JOB_NAME") in ("bash", "interactive"):  # Lightning does not use Slurm there either
        return None
    if "SLURM_STEP_NUM_TASKS" in variables:
        nodes = variables.get("SLURM_STEP_NUM_NODES", variables.get("SLURM_NNODES", 1))
        return Launch("srun", int(variables["SLURM_STEP_NUM_TASKS"]), int(nodes))
    if int(variables.get("SLURM_PROCID", 0)) > 0:
        return Launch("srun", int(variables["SLURM_NTASKS"]), int(variables.get("SLURM_NNODES", 1)))
    return None


def make_environment_without_launcher() -> dict[str, str]:
    """Return the environment for a single process: without a launcher's variables about several processes."""
    launch = find_launch()
    if launch is None or launch.processes == 1:
        return dict(os.environ)
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_STEP_", "TORCHELASTIC_")) and name not in _PLACES
    }


def take_devices(trainer: Namespace) -> None:
    """Set `trainer.devices` and `num_nodes` to the started processes, if the user has not given them.

    On CPUs, Lightning's "auto" means one process, however many were started.
    """
    launch = find_launch()
    if launch is None or trainer.devices not in ("auto", None) or trainer.num_nodes != 1:
        return
    gpus = torch.cuda.device_count()
    if launch.processes > 1 and (gpus == 0 or gpus >= launch.devices):
        trainer.devices, trainer.num_nodes = launch.devices, launch.nodes


def refuse_copies(trainer: Namespace) -> None:
    """Raise UserError if trainer.strategy copies this process instead of starting the command once for each device.

    A copy would not have working files, threads and locks of the run.
    """
    strategy, methods = trainer.strategy, ("spawn", "fork", "forkserver")
    if isinstance(strategy, Namespace):
        name, copies = strategy.class_path, strategy.get("init_args", Namespace()).get("start_method") in methods
    else:
        name, copies = strategy, re.search("_(spawn|fork|notebook)", str(strategy)) is not None
    if copies:
        raise UserError(
            f"trainer.strategy {name} copies this process, which holds the run's files, threads and locks: give ddp, "
            "which starts the command once for each device"
        )


def refuse_separate_trainings(processes: int) -> None:
    """Raise UserError if this training has another number of processes than the launcher started."""
    launch = find_launch()
    if launch is not None and launch.processes != processes:
        raise UserError(
            f"{launch.launcher} has started {format_count(launch.processes, 'process', 'processes')}, but "
            f"trainer.devices and trainer.num_nodes make {processes}: give "
            f"--trainer.devices {launch.devices} --trainer.num_nodes {launch.nodes}"
        )
