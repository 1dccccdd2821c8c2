"""Exchange values among the processes of one training."""

from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


def ask_first_process(trainer: Any, question: Callable[[], T]) -> T:
    """Call `question` on the first process only, and return its answer on all. Every process must call this.

    Without a trainer (None) there is only one process.
    """
    if trainer is None:
        return question()
    answer: T = trainer.strategy.broadcast(question() if trainer.is_global_zero else None)
    return answer


def gather(items: list[Any]) -> list[Any]:
    """Return the items of all processes, in order of rank. Every process must call this."""
    if not dist.is_available() or not dist.is_initialized():
        return items
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def add_up(counts: Counter[K]) -> Counter[K]:
    """Return the sum of the counts of all processes, by key. Every process must call this."""
    sums: Counter[K] = Counter()
    for key, count in gather(list(counts.items())):
        sums[key] += count
    return sums


def collective_device() -> torch.device:
    """Return the device on which processes can exchange tensors: this process's GPU for NCCL, the CPU for gloo."""
    kinds = [pair.partition(":")[0] for pair in dist.get_backend_config().split(",")]  # such as "cuda:nccl"
    if "cpu" in kinds:
        return torch.device("cpu")
    return torch.device(kinds[0], torch.cuda.current_device() if torch.cuda.is_available() else 0)


def gather_tensors(tensor: Tensor, group: Any = None) -> list[Tensor]:
    """Return a tensor (...) of every process, in order of rank. Sizes may differ. Every process must call this.

    It is torchmetrics' function, made to work on any device: our metrics count on the CPU, also if networks run on
    GPUs.
    """
    from torchmetrics.utilities.distributed import gather_all_tensors  # takes a second, and predict does not need it

    return [part.to(tensor.device) for part in gather_all_tensors(tensor.to(collective_device()), group)]


def share_buffers(trainer: Any) -> None:
    """Copy the first process's buffers to all processes. Every process must call this before a validation.

    DDP would do this at its first batch after a training step. But in validation a process may have no images and so
    no batch, and the others would wait for it.
    """
    model = trainer.strategy.model
    if isinstance(model, DistributedDataParallel) and model.will_sync_module_buffers():
        model._sync_buffers()
        model.require_forward_param_sync = False  # until the next training step


def reduce_logged_metrics(trainer: Any) -> None:
    """Reduce the values that were logged with `sync_dist=True`.

    Every process must call this before another collective at the end of an epoch. Each reduction is a collective, and
    processes that run collectives in different orders wait for each other for ever. Without this call, the progress bar
    may reduce the values on the first process before that other collective, and the other processes after it.
    """
    _ = trainer.callback_metrics  # computes them, if they are not computed yet


def is_lost_connection(error: Exception) -> bool:
    """Return whether a collective failed because another process has ended, by the messages of gloo and NCCL."""
    return isinstance(error, RuntimeError) and any(part in str(error) for part in ("by peer", "remote process exited"))
