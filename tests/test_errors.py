"""A user's error keeps its message wherever it is raised, and common crashes are explained."""

import signal

import pytest
import torch

from lit_ad.commands.main import find_user_error
from lit_ad.errors import (
    NotFiniteError,
    UserError,
    ViewMismatch,
    describe_exit,
    explain_gpu_out_of_memory,
    explain_killed_worker,
)


@pytest.mark.parametrize("kind", [UserError, ViewMismatch, NotFiniteError])
def test_an_error_in_a_loaders_worker_keeps_its_message(kind: type[UserError]) -> None:
    """torch passes it on as the text of a traceback."""

    class Broken(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> int:
            raise kind(f"cannot read {index}.png")

    with pytest.raises(kind) as error:
        list(torch.utils.data.DataLoader(Broken(), num_workers=1))
    assert str(error.value) == "cannot read 0.png"


MEMORY = (
    "^a process that loads images was killed, most likely because the memory ran out: "
    r"lower data.loading.num_workers \(0"
)
SHARED = r"^a process that loads images ran out of shared memory, /dev/shm: lower data.loading.num_workers"


@pytest.mark.parametrize(
    ("text", "message"),
    [  # as torch has them
        ("DataLoader worker (pid(s) 2990, 2991) exited unexpectedly", MEMORY),
        ("DataLoader worker (pid 4592) is killed by signal: Killed. ", MEMORY),
        ("DataLoader worker (pid 1) is killed by signal: Bus error. It is possible that dataloader's workers", SHARED),
        (
            "DataLoader worker (pid 1) is killed by signal: Segmentation fault. ",
            r"died of a segmentation fault",
        ),
        (
            "Caught RuntimeError in DataLoader worker process 0.\n ... RuntimeError: unable to write to file "
            "</torch_1_2_3>: No space left on device (28)",
            SHARED,
        ),
    ],
)
def test_a_killed_worker_is_explained_by_memory(text: str, message: str) -> None:
    wrapped = UserError("cannot write best.ckpt: make room")
    wrapped.__cause__ = RuntimeError(text)
    for error in (RuntimeError(text), wrapped):
        killed = explain_killed_worker(error)
        assert killed is not None
        with pytest.raises(UserError, match=message):
            raise killed


def test_other_errors_are_not_explained_by_a_killed_worker() -> None:
    for error in (
        None,
        RuntimeError("unable to write to file: No space left on device"),
        UserError("DataLoader worker"),
    ):
        assert explain_killed_worker(error) is None


def test_exit_codes_in_words() -> None:
    assert describe_exit(7) == "exit code 7"
    assert describe_exit(-signal.SIGKILL) == "killed by SIGKILL, most likely because the memory ran out"
    assert (describe_exit(-signal.SIGSEGV), describe_exit(-999)) == ("killed by SIGSEGV", "killed by signal 999")


def test_a_gpu_out_of_memory_is_explained() -> None:
    cause = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of ...")
    error = RuntimeError("in a step")
    error.__cause__ = cause
    for one in (cause, error):
        assert str(explain_gpu_out_of_memory(one)).startswith("the GPU's memory ran out: lower data.batch_size")
        assert find_user_error(one) is not None
    assert explain_gpu_out_of_memory(RuntimeError("out of luck")) is None and explain_gpu_out_of_memory(None) is None
