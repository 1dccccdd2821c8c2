"""Processes that torchrun or srun has started train together, and never beside one another in one directory."""

import os
import re
from typing import NamedTuple

import torch
from jsonargparse import Namespace

from lit_ad.counts import format_count
from lit_ad.errors import UserError

_PLACES = (  # among the processes of a launcher
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS"),
)


class Launched(NamedTuple):
    """What a launcher has started."""

    launcher: str
    processes: int
    nodes: int

    @property
    def devices(self) -> int:
        """Processes of each node."""
        return self.processes // self.nodes


def launched() -> Launched | None:
    """What torchrun or srun has started, or None if this process stands alone.

    A batch script of Slurm has the number of tasks in its environment too. Only in a step, which srun makes, do so many
    processes run.
    """
    variables = os.environ
    if "TORCHELASTIC_RUN_ID" in variables:
        return Launched("torchrun", int(variables["WORLD_SIZE"]), int(variables.get("GROUP_WORLD_SIZE", 1)))
    if variables.get("SLURM_JOB_NAME") in ("bash", "interactive"):  # Lightning does not use Slurm there either
        return None
    if "SLURM_STEP_NUM_TASKS" in variables:
        nodes = variables.get("SLURM_STEP_NUM_NODES", variables.get("SLURM_NNODES", 1))
        return Launched("srun", int(variables["SLURM_STEP_NUM_TASKS"]), int(nodes))
    if int(variables.get("SLURM_PROCID", 0)) > 0:
        return Launched("srun", int(variables["SLURM_NTASKS"]), int(variables.get("SLURM_NNODES", 1)))
    return None


def environment_alone() -> dict[str, str]:
    """The environment for a training of its own: without what a launcher of several processes says of them."""
    started = launched()
    if started is None or started.processes == 1:
        return dict(os.environ)
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_STEP_", "TORCHELASTIC_")) and name not in _PLACES
    }


def take_devices(trainer: Namespace) -> None:
    """Set `trainer.devices` and `num_nodes` to what was started, where the user has not given them.

    On CPUs, Lightning's "auto" is one process, whatever was started.
    """
    started = launched()
    if started is None or trainer.devices not in ("auto", None) or trainer.num_nodes != 1:
        return
    gpus = torch.cuda.device_count()
    if started.processes > 1 and (gpus == 0 or gpus >= started.devices):
        trainer.devices, trainer.num_nodes = started.devices, started.nodes


def refuse_copies(trainer: Namespace) -> None:
    """Raise UserError if trainer.strategy copies this process in place of starting the command again for each device:
    the files, threads and locks of a run do not survive that."""
    strategy, started = trainer.strategy, ("spawn", "fork", "forkserver")
    if isinstance(strategy, Namespace):
        name, copies = strategy.class_path, strategy.get("init_args", Namespace()).get("start_method") in started
    else:
        name, copies = strategy, re.search("_(spawn|fork|notebook)", str(strategy)) is not None
    if copies:
        raise UserError(
            f"trainer.strategy {name} copies this process, which holds the run's files, threads and locks: give ddp, "
            "which starts the command once for each device"
        )


def refuse_separate_trainings(processes: int) -> None:
    """Raise UserError if this training is of another number of processes than were started."""
    started = launched()
    if started is not None and started.processes != processes:
        raise UserError(
            f"{started.launcher} has started {format_count(started.processes, 'process', 'processes')}, but "
            f"trainer.devices and trainer.num_nodes make {processes}: give "
            f"--trainer.devices {started.devices} --trainer.num_nodes {started.nodes}"
        )
