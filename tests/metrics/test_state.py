"""The state of pixel metrics is bounded, counts by group, and is the same after any merge."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lit_ad.metrics import state
from lit_ad.metrics.state import Overlap, PixelState, decode_names, encode_names


class Kept(PixelState):
    """The state without a metric."""

    def update(self, scores: Tensor, target: Tensor, group: str = "") -> None:
        self._add(scores, target, group, "an image")

    def compute(self) -> Tensor:
        return torch.tensor(0.0)

    def pixels(self, *groups: str) -> tuple[int, int]:
        """Nominal and anomalous pixels of some groups; none: of all."""
        counts = self._count_pixels(groups or None)
        return int(counts.nominal.sum()), int(counts.anomalous.sum())


def image(seed: int, side: int = 20) -> tuple[Tensor, Tensor]:
    """Return a map, and a mask of an eighth of its pixels."""
    mask = torch.zeros(side, side)
    mask[: side // 2, : side // 4] = 1
    return torch.randn(side, side, generator=torch.Generator().manual_seed(seed)), mask


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds are the rows of the tables and the pixels that wait to be counted."""
    monkeypatch.setitem(state.BUDGET, "pixels", 50)
    monkeypatch.setitem(state.BUDGET, "regions", 60)
    monkeypatch.setattr(state, "PENDING", 1000)
    kept, exact = Kept(), Kept(exact=True)
    for seed in range(20):
        for metric in (kept, exact):
            metric.update(*image(seed))
        waiting = [sum(map(len, kept.metric_state[f"{table}_pending_keys"])) for table in kept.tables]
        assert max(waiting) < 1000
    assert kept.pixels() == exact.pixels() == (20 * 350, 20 * 50)
    assert len(kept.pixels_cells) <= 50 and len(kept.regions_cells) <= 60
    assert len(exact.pixels_cells) > 5000


def test_groups_are_counted_apart_in_any_order() -> None:
    images = {"b/good": (10, 0), "a/hole": (12, 4), "c/good": (14, 0), "a/good": (16, 0)}
    kept = Kept()
    for seed, (group, (side, _)) in enumerate(images.items()):
        scores, mask = image(seed, side)
        kept.update(scores, mask if group == "a/hole" else 0 * mask, group)
    assert kept.pixels("a/hole") == (144 - 18, 18)
    assert kept.pixels("b/good") == (100, 0) and kept.pixels("a/good", "c/good") == (16**2 + 14**2, 0)
    assert kept.pixels() == (sum(side**2 for side, _ in images.values()) - 18, 18)
    with pytest.raises(ValueError, match="cannot hold a zero character"):
        kept.update(*image(0), "a\0b")


def test_a_merged_state_is_the_sum() -> None:
    first, second, both = Kept(), Kept(), Kept()
    for seed, group in enumerate(("b", "a", "c")):
        for metric in (both, first if seed < 2 else second):
            metric.update(*image(seed), group)
    first.merge_state(second)
    for groups in ((), ("a",), ("b", "c")):
        assert first.pixels(*groups) == both.pixels(*groups)
    assert torch.equal(first.names, both.names) and torch.equal(first.pixels_cells, both.pixels_cells)


def test_regions_by_hand() -> None:
    cells, sizes, counts = np.array([0, 1, 1, 2]), np.array([4, 4, 6, 6]), np.array([3, 5, 7, 5])
    overlap = Overlap(np.array([9, 9, 9]), cells, sizes, counts, True)
    found, number = overlap.regions()
    assert found.tolist() == [4, 6] and number.tolist() == [2, 2]  # 8 pixels in regions of 4, 12 in regions of 6


@given(st.sets(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_names_survive_as_bytes(names: set[str]) -> None:
    assert decode_names(encode_names(sorted(names)).numpy()) == sorted(names)
