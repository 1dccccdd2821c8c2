"""The state of metrics that keep values of every image: lists of tensors, joined over the processes."""

from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from lit_ad.distributed import gather_tensors


class ListState(Metric):
    """Base of metrics with lists of tensors (n,): one for each name in `kinds`, of the dtype given there."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    kinds: ClassVar[dict[str, torch.dtype]] = {}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": gather_tensors, **kwargs})
        for name in self.kinds:
            self.add_state(name, [], dist_reduce_fx="cat")

    def _join(self, name: str) -> NDArray[Any]:
        """Return a list of tensors as one array (n,). After torchmetrics' sync, the list is one tensor."""
        parts: list[Tensor] | Tensor = getattr(self, name)
        return (dim_zero_cat(parts) if len(parts) else torch.zeros(0, dtype=self.kinds[name])).cpu().numpy()

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        """Add an empty tensor of the right dtype to empty lists, before torchmetrics' `sync` gathers them: its own
        placeholder for a process without images has one dtype for all."""
        for name, dtype in self.kinds.items():
            if not getattr(self, name):
                getattr(self, name).append(torch.zeros(0, dtype=dtype, device=self.device))
        super()._sync_dist(*args, **kwargs)
