"""What pixel metrics keep of the images: bounded, by group, and the same after any merge."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lit_ad.metrics import state
from lit_ad.metrics.state import NotFinite, Overlap, PixelState, as_float32, checked, decoded, encoded


class Kept(PixelState):
    """The state alone."""

    def update(self, scores: Tensor, target: Tensor, group: str = "") -> None:
        self._add(scores, target, group, "an image")

    def compute(self) -> Tensor:
        return torch.tensor(0.0)

    def pixels(self, *groups: str) -> tuple[int, int]:
        """Nominal and anomalous pixels of some groups; none: of all."""
        counts = self._pixels(groups or None)
        return int(counts.nominal.sum()), int(counts.anomalous.sum())


def image(seed: int, side: int = 20) -> tuple[Tensor, Tensor]:
    """A map, and a mask with an eighth of the pixels."""
    mask = torch.zeros(side, side)
    mask[: side // 2, : side // 4] = 1
    return torch.randn(side, side, generator=torch.Generator().manual_seed(seed)), mask


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the rows of the tables, and by the pixels that wait to be counted."""
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


def test_groups_are_counted_apart_in_whatever_order_they_come() -> None:
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


def test_merged_states_are_the_sum() -> None:
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
def test_names_travel_as_bytes(names: set[str]) -> None:
    assert decoded(encoded(sorted(names)).numpy()) == sorted(names)


def test_scores_and_target_of_any_type() -> None:
    target = torch.tensor([0.0, 1.0])
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        for labels in (target, target.bool(), target.long(), target.bfloat16()):
            values, mask = checked(torch.tensor([0.5, 2.0], dtype=dtype), labels, "x")
            assert values.tolist() == [0.5, 2.0] and values.dtype == np.float32 and mask.tolist() == [False, True]
    with pytest.raises(NotFinite, match="x: 1 of 2 scores are NaN or infinite"):
        checked(torch.tensor([1e300, 0.0], dtype=torch.float64), target, "x")
    with pytest.raises(ValueError, match=r"and 1 \(anomalous\) only, not 2.0, 3.0, 4.0, \.\.\."):
        checked(torch.rand(4), torch.tensor([2.0, 3, 4, 5]), "x")


def test_half_and_bfloat16_are_exact() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        scores = torch.randn(100).to(dtype)
        assert torch.equal(torch.from_numpy(as_float32(scores)).to(dtype), scores)
