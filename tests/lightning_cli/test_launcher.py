"""How torchrun and srun started this process, as the environment tells it."""

import pytest
import torch
from jsonargparse import Namespace

from lit_ad.errors import UserError
from lit_ad.lightning_cli.launcher import (
    Launch,
    find_launch,
    make_environment_without_launcher,
    refuse_copies,
    refuse_separate_trainings,
    take_devices,
)

TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "3", "GROUP_WORLD_SIZE": "2"}
SRUN = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2", "SLURM_NTASKS": "8", "SLURM_JOB_NAME": "train"}
BATCH_SCRIPT = {"SLURM_NTASKS": "4", "SLURM_NNODES": "1", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "train"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {*TORCHRUN, *SRUN, *BATCH_SCRIPT}:
        monkeypatch.delenv(name, raising=False)


def start(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], gpus: int = 0) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (TORCHRUN, Launch("torchrun", 6, 2)),
        (SRUN, Launch("srun", 4, 2)),
        (BATCH_SCRIPT, None),
        (BATCH_SCRIPT | {"SLURM_PROCID": "3"}, Launch("srun", 4, 1)),
        (SRUN | {"SLURM_JOB_NAME": "bash"}, None),
    ],
)
def test_a_launch_is_found_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: Launch | None
) -> None:
    start(monkeypatch, environment)
    assert find_launch() == expected


@pytest.mark.parametrize(("gpus", "devices", "nodes"), [(0, 3, 2), (3, 3, 2), (8, 3, 2), (1, "auto", 1)])
def test_the_trainer_gets_a_device_for_each_process(
    monkeypatch: pytest.MonkeyPatch, gpus: int, devices: object, nodes: int
) -> None:
    """Devices stay "auto" where each process sees a single GPU."""
    start(monkeypatch, TORCHRUN, gpus)
    trainer = Namespace(devices="auto", num_nodes=1)
    take_devices(trainer)
    assert (trainer.devices, trainer.num_nodes) == (devices, nodes)


def test_given_devices_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    start(monkeypatch, TORCHRUN)
    trainer = Namespace(devices=1, num_nodes=1)
    take_devices(trainer)
    assert trainer.devices == 1


def test_separate_trainings_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_separate_trainings(1)
    start(monkeypatch, TORCHRUN)
    refuse_separate_trainings(6)
    with pytest.raises(UserError, match=r"torchrun has started 6 .* --trainer.devices 3 --trainer.num_nodes 2"):
        refuse_separate_trainings(1)


def test_a_single_process_sees_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """For example a benchmark's cell, when the processes of srun share the cells."""
    start(monkeypatch, SRUN | {"SLURM_PROCID": "3", "SLURM_JOB_ID": "17"})
    environment = make_environment_without_launcher()
    assert environment["SLURM_JOB_ID"] == "17"
    assert not {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"} & environment.keys()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert make_environment_without_launcher()["SLURM_PROCID"] == "3"


@pytest.mark.parametrize(
    "strategy",
    ["ddp_spawn", "ddp_fork", "ddp_notebook_find_unused_parameters_true", "lightning.pytorch.strategies.DDPStrategy"],
)
def test_copies_of_the_process_are_refused(strategy: str) -> None:
    made: object = strategy
    if "." in strategy:
        made = Namespace(class_path=strategy, init_args=Namespace(start_method="fork"))
    with pytest.raises(UserError, match=f"trainer.strategy {strategy} copies this process.*: give ddp"):
        refuse_copies(Namespace(strategy=made))


@pytest.mark.parametrize("strategy", ["auto", "ddp", "ddp_find_unused_parameters_true", "fsdp"])
def test_other_strategies_are_not_refused(strategy: str) -> None:
    refuse_copies(Namespace(strategy=strategy))
    made = Namespace(class_path=strategy, init_args=Namespace(start_method="popen"))
    for one in (made, Namespace(class_path=strategy)):
        refuse_copies(Namespace(strategy=one))
