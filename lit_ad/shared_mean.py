"""The mean loss of several processes."""

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric


class SharedMean(Metric):
    """The weighted mean of the values of all processes, which communicate in `update` and `forward` and never later.

    `self.log(..., on_epoch=True, sync_dist=True)` communicates when the mean is first read. At an epoch's end the
    progress bar reads it on the first process alone, and the other processes read it after the hooks: any collective in
    between makes all of them wait for ever.
    """

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False)
        for name in ("total", "weight"):
            self.add_state(name, torch.tensor(0.0, dtype=torch.get_default_dtype()), dist_reduce_fx="sum")

    def update(self, value: Tensor, weight: float) -> None:
        """Add a scalar with its weight on this process. Every process must call it."""
        sums = torch.stack([value * weight, torch.full_like(value, weight)]).to(self.total.dtype)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        self.total, self.weight = self.total + sums[0], self.weight + sums[1]

    def compute(self) -> Tensor:
        """The mean, a scalar."""
        return self.total / self.weight
