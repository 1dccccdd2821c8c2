"""In which order items come, and which of them are this process's: it depends on seed and epoch alone."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from torch.utils.data import DistributedSampler

from lit_ad.data.dataset import AnomalyDataset


class Shuffle(DistributedSampler[int]):
    """An order that depends on seed and epoch alone; with one process or with many, each its own part.

    Balanced, an epoch has as many items as ever, and as many of each category.
    """

    def __init__(self, dataset: AnomalyDataset, replicas: int, rank: int, seed: int, balanced: bool = False) -> None:
        super().__init__(dataset, replicas, rank, shuffle=True, seed=seed)
        self.shared_epoch = dataset.epoch
        self.categories = dataset.categories() if balanced else None
        self.start = 0  # how many of the next epoch's are left out
        self.resumed: int | None = None  # the epoch of a checkpoint, until it is told what Lightning takes it for
        self.shift = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning counts an epoch that ended early, by max_steps, as a whole one, and then goes on within it."""
        if self.resumed is not None:
            self.shift, self.resumed = self.resumed - epoch, None
        super().set_epoch(epoch + self.shift)

    def __iter__(self) -> Iterator[int]:
        self.shared_epoch.fill_(self.epoch)
        order = super().__iter__()
        if self.categories is not None:
            drawn = draw_alike(self.categories, (self.seed, self.epoch))
            order = (drawn[place] for place in order)
        yield from islice(order, self.start, None)
        self.epoch += 1  # Lightning sets it at every epoch; a plain loop need not


class Share(DistributedSampler[int]):
    """This process's share of some items, in order: every n-th of them, none twice.

    Lightning replaces any sampler that is no DistributedSampler by one that repeats items. A process that has no batch
    skips the loop with its hooks, in which processes meet (`skip` in Lightning's evaluation_loop.py and
    prediction_loop.py): the others would wait for it. So each share is as long as the longest, and at least 1, while a
    shorter one gives fewer items, or none; Lightning ends a loop where its loader ends.

    Args:
        items: The numbers of all processes together.
        processes: How many they are.
        place: Which of them this is.
    """

    def __init__(self, items: Sequence[int], processes: int, place: int) -> None:
        super().__init__(items, processes, place, shuffle=False)  # type: ignore[arg-type]  # only its length is asked
        self.items = items[place::processes]

    def __iter__(self) -> Iterator[int]:
        return iter(self.items)

    def __len__(self) -> int:
        return max(1, super().__len__())


def draw_alike(categories: list[str], seed: tuple[int, int]) -> list[int]:
    """As many items as there are, of each category alike (to one): of small ones repeatedly, of large ones a part.

    Each category is gone through in random order, whole before an item comes again.

    Args:
        categories: Of each item.
        seed: And epoch.
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
