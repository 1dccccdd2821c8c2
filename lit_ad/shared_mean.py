"""Compute the mean loss of several processes."""

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric


class SharedMean(Metric):
    """The weighted mean of the values of all processes. Processes communicate in `update` and `forward`, never later.

    `self.log(..., on_epoch=True, sync_dist=True)` communicates when the mean is first read. At the end of an epoch the
    progress bar reads it on the first process only, and the other processes read it after the hooks. Any collective in
    between would make all of them wait for ever.
    """

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False)
        for name in ("total", "weight"):
            self.add_state(name, torch.tensor(0.0, dtype=torch.get_default_dtype()), dist_reduce_fx="sum")

    def update(self, value: Tensor, weight: float) -> None:
        """Add this process's scalar with its weight. Every process must call this."""
        sums = torch.stack([value * weight, torch.full_like(value, weight)]).to(self.total.dtype)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        self.total, self.weight = self.total + sums[0], self.weight + sums[1]

    def compute(self) -> Tensor:
        """Return the mean, a scalar."""
        return self.total / self.weight
