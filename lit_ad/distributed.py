"""What several processes of one training tell one another."""

from typing import Any

import torch.distributed as dist


def gather(items: list[Any]) -> list[Any]:
    """Return the items of all processes, in order of rank. Every process must call it."""
    if not dist.is_available() or not dist.is_initialized():
        return items
    shares: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(shares, items)
    return [item for share in shares for item in share]
