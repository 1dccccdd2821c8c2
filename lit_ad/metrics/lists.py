"""The state of metrics that keep something of every image: lists of tensors, joined over the processes."""

from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from lit_ad.distributed import gather_tensors


class ListState(Metric):
    """Base of metrics with one list of tensors (n,) for each name of `kinds`, which gives their type."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    kinds: ClassVar[dict[str, torch.dtype]] = {}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": gather_tensors, **kwargs})
        for name in self.kinds:
            self.add_state(name, [], dist_reduce_fx="cat")

    def _joined(self, name: str) -> NDArray[Any]:
        """A list, which is one tensor once synced, as one array (n,)."""
        parts: list[Tensor] | Tensor = getattr(self, name)
        return (dim_zero_cat(parts) if len(parts) else torch.zeros(0, dtype=self.kinds[name])).cpu().numpy()

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        """Called by torchmetrics' `sync`, whose stand-in for a process that saw nothing has but one dtype."""
        for name, dtype in self.kinds.items():
            if not getattr(self, name):
                getattr(self, name).append(torch.zeros(0, dtype=dtype, device=self.device))
        super()._sync_dist(*args, **kwargs)
