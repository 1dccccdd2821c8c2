"""The order depends on seed and epoch alone. Processes share an epoch. Categories can be balanced."""

from collections import Counter
from pathlib import Path

import pytest

from lit_ad.batch import Sample
from lit_ad.data.dataset import AnomalyDataset
from lit_ad.data.sampling import Share, Shuffle, draw_balanced
from lit_ad.image.tiling import Tiles
from lit_ad.image.view import View


def of_length(length: int) -> AnomalyDataset:
    return AnomalyDataset([Sample(Path(f"{i}.png"), 0) for i in range(length)], View(16))


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_the_shares_of_processes_hold_each_item_once_and_have_one_length(count: int) -> None:
    items = [10 * i for i in range(count)]
    shares = [Share(items, 3, place) for place in range(3)]
    assert sorted(item for share in shares for item in share) == items
    assert [list(share)[:1] for share in shares] == [items[i : i + 1] for i in range(3)]
    assert {len(share) for share in shares} == {max(1, max(len(list(share)) for share in shares))}


@pytest.mark.parametrize("length", [8, 9])
def test_processes_share_an_epoch(length: int) -> None:
    parts = [list(Shuffle(of_length(length), 2, rank, seed=0)) for rank in range(2)]
    assert sorted(set(parts[0] + parts[1])) == list(range(length)) and len(parts[0]) == len(parts[1])


def test_the_sampler_tells_the_dataset_the_epoch() -> None:
    dataset = of_length(4)
    sampler = Shuffle(dataset, 1, 0, seed=0)
    orders = []
    for epoch in (0, 1):
        orders.append(list(sampler))
        assert int(dataset.epoch) == epoch
    sampler.set_epoch(0)
    assert list(sampler) == orders[0] != orders[1] and int(dataset.epoch) == 0


def of_categories(**counts: int) -> AnomalyDataset:
    names = [name for name, count in counts.items() for _ in range(count)]
    return AnomalyDataset([Sample(Path(f"{i}.png"), 0, category=name) for i, name in enumerate(names)], View(16))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_balanced_epoch_has_equally_many_images_of_each_category(processes: int) -> None:
    dataset = of_categories(a=3, b=20, c=7)
    names, seen = dataset.list_categories(), set()
    for epoch in range(12):
        items = []
        for rank in range(processes):
            sampler = Shuffle(dataset, processes, rank, seed=0, balanced=True)
            sampler.set_epoch(epoch)
            items.append(list(sampler))
        assert len({tuple(part) for part in items}) == processes
        epoch_of = [i for part in items for i in part]
        assert Counter(names[i] for i in epoch_of) == {"a": 10, "b": 10, "c": 10}
        times = Counter(epoch_of)
        assert {times[i] for i in range(3)} == {3, 4}  # no image of a comes again before every image of a has come
        assert max(times[i] for i in range(3, 23)) == 1
        seen.update(epoch_of)
    assert seen == set(range(30))  # over the epochs, every image of the large category too


def test_the_counts_of_categories_differ_by_at_most_one() -> None:
    dataset = of_categories(a=1, b=9)
    more = of_categories(a=1, b=1, c=9)
    assert Counter(dataset.list_categories()[i] for i in draw_balanced(dataset.list_categories(), (0, 0))) == {
        "a": 5,
        "b": 5,
    }
    counts = [
        Counter(more.list_categories()[i] for i in draw_balanced(more.list_categories(), (0, epoch)))
        for epoch in range(20)
    ]
    assert {tuple(sorted(count.values())) for count in counts} == {(3, 4, 4)}
    assert {name for count in counts for name in "abc" if count[name] == 3} == set("abc")


def test_tiles_are_balanced_by_the_categories_of_their_images() -> None:
    dataset = of_categories(a=1, b=1)
    dataset.tiles = Tiles([(16, 16), (32, 64)], 16, 0)
    assert dataset.list_categories() == ["a"] + ["b"] * 8
