"""Samplers: the order of items, and each process's share of them. They depend on seed and epoch only."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from torch.utils.data import DistributedSampler

from lit_ad.data.dataset import AnomalyDataset


class Shuffle(DistributedSampler[int]):
    """A random order that depends on seed and epoch only. Each process gets its own part of it.

    Args:
        dataset: The items; it is told the epoch.
        replicas: Number of processes.
        rank: Number of this process.
        seed: Seed of the order.
        balanced: Draw the same number of items from each category. The length of an epoch stays the same.
    """

    def __init__(self, dataset: AnomalyDataset, replicas: int, rank: int, seed: int, balanced: bool = False) -> None:
        super().__init__(dataset, replicas, rank, shuffle=True, seed=seed)
        self.shared_epoch = dataset.epoch
        self.categories = dataset.list_categories() if balanced else None
        self.start = 0  # number of items to skip at the start of the next epoch
        self.resumed: int | None = None  # epoch in a checkpoint; None after the first set_epoch
        self.shift = 0  # difference between that epoch and Lightning's count

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the order. After a resumption, keep counting from the checkpoint's epoch: Lightning counts
        an epoch that max_steps ended early as complete, but resumes within it."""
        if self.resumed is not None:
            self.shift, self.resumed = self.resumed - epoch, None
        super().set_epoch(epoch + self.shift)

    def __iter__(self) -> Iterator[int]:
        self.shared_epoch.fill_(self.epoch)
        order = super().__iter__()
        if self.categories is not None:
            drawn = draw_balanced(self.categories, (self.seed, self.epoch))
            order = (drawn[place] for place in order)
        yield from islice(order, self.start, None)
        self.epoch += 1  # Lightning calls set_epoch for every epoch; a plain loop need not


class Share(DistributedSampler[int]):
    """One process's share of some items, in order: every n-th of them. No item comes twice.

    It is a DistributedSampler, because Lightning replaces any other sampler by one that repeats items. A process
    without a batch would skip the loop and its hooks, in which the processes wait for each other (`skip` in
    Lightning's evaluation_loop.py and prediction_loop.py). Therefore `len` is that of the longest share, and at least
    1. A shorter share yields fewer items or none; Lightning ends a loop where its loader ends.

    Args:
        items: Indices of the items of all processes.
        processes: Number of processes.
        place: Number of this process.
    """

    def __init__(self, items: Sequence[int], processes: int, place: int) -> None:
        super().__init__(items, processes, place, shuffle=False)  # type: ignore[arg-type]  # it needs only a length
        self.items = items[place::processes]

    def __iter__(self) -> Iterator[int]:
        return iter(self.items)

    def __len__(self) -> int:
        return max(1, super().__len__())


def draw_balanced(categories: list[str], seed: tuple[int, int]) -> list[int]:
    """Return as many indices as there are items. The counts of two categories differ by at most one.

    Items of small categories repeat; of large categories, only a part comes. A category's items come in random order,
    and no item repeats before all of them came.

    Args:
        categories: The category of each item.
        seed: Seed and epoch.
    """
    generator, rows = np.random.default_rng(seed), defaultdict(list)
    for item, category in enumerate(categories):
        rows[category].append(item)
    counts = np.full(len(rows), len(categories) // len(rows))
    counts[generator.permutation(len(rows))[: len(categories) % len(rows)]] += 1
    drawn: list[int] = []
    for own_rows, count in zip(rows.values(), counts, strict=True):
        rounds = [generator.permutation(own_rows) for _ in range(-(-count // len(own_rows)))]
        drawn += np.concatenate(rounds)[:count].tolist() if rounds else []
    return drawn
