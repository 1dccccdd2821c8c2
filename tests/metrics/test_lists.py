"""Lists of tensors are joined over batches and processes."""

from typing import ClassVar

import torch

from lit_ad.metrics.lists import ListState


class Seen(ListState):
    kinds: ClassVar[dict[str, torch.dtype]] = {"numbers": torch.int64, "bytes": torch.uint8}
    numbers: list[torch.Tensor]

    def update(self, *numbers: int) -> None:
        self.numbers.append(torch.tensor(numbers))

    def compute(self) -> int:
        return int(self._join("numbers").sum())


def test_lists_are_joined_in_order_and_keep_their_dtype() -> None:
    seen = Seen()
    assert seen._join("bytes").shape == (0,) and seen._join("bytes").dtype == "uint8"
    seen.update(3, 1)
    seen.update(2)
    assert seen._join("numbers").tolist() == [3, 1, 2] and seen.compute() == 6
    seen.reset()
    assert seen._join("numbers").shape == (0,)
