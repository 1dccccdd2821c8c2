"""What several processes of one training tell one another."""

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
    """Return the first process's answer; it alone is asked. Every process must call it. No trainer: there is one."""
    if trainer is None:
        return question()
    answer: T = trainer.strategy.broadcast(question() if trainer.is_global_zero else None)
    return answer


def gather(items: list[Any]) -> list[Any]:
    """Return the items of all processes, in order of rank. Every process must call it."""
    if not dist.is_available() or not dist.is_initialized():
        return items
    shares: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(shares, items)
    return [item for share in shares for item in share]


def add_up(counts: Counter[K]) -> Counter[K]:
    """Return the sum of the counts of all processes, by key. Every process must call it."""
    sums: Counter[K] = Counter()
    for key, count in gather(list(counts.items())):
        sums[key] += count
    return sums


def collective_device() -> torch.device:
    """Return where tensors must lie for the processes to exchange them: NCCL takes those of this process's GPU alone,
    gloo any."""
    kinds = [pair.partition(":")[0] for pair in dist.get_backend_config().split(",")]  # of "cuda:nccl"
    if "cpu" in kinds:
        return torch.device("cpu")
    return torch.device(kinds[0], torch.cuda.current_device() if torch.cuda.is_available() else 0)


def gather_tensors(tensor: Tensor, group: Any = None) -> list[Tensor]:
    """Return a tensor (...) of every process, in order of rank; sizes may differ. Every process must call it.

    It is torchmetrics' own way, for tensors on any device: our metrics count on the CPU, whatever the networks run on.
    """
    from torchmetrics.utilities.distributed import gather_all_tensors  # takes a second, and predict needs none of it

    return [share.to(tensor.device) for share in gather_all_tensors(tensor.to(collective_device()), group)]


def share_buffers(trainer: Any) -> None:
    """Give all processes the first one's buffers. Every process must call it, before a validation.

    DDP would do it in the first batch that it is given after a training step. Validation gives each process its share
    of the images, and a process without images has no batch: the others would wait for it.
    """
    model = trainer.strategy.model
    if isinstance(model, DistributedDataParallel) and model.will_sync_module_buffers():
        model._sync_buffers()
        model.require_forward_param_sync = False  # until the next training step


def reduce_logged_metrics(trainer: Any) -> None:
    """Reduce what was logged with `sync_dist=True`. Call it on every process, before another collective at an epoch's
    end: on the first process the progress bar has perhaps reduced it already, see `shared_mean`."""
    _ = trainer.callback_metrics  # computes what is not computed yet


def is_lost_connection(error: Exception) -> bool:
    """Whether a collective failed because another process has ended, by the words of gloo and NCCL."""
    return isinstance(error, RuntimeError) and any(w in str(error) for w in ("by peer", "remote process exited"))
