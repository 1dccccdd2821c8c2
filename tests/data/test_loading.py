"""Items to batches, in an order that depends on seed and epoch alone."""

import threading
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from lit_ad.batch import Batch, Sample
from lit_ad.data.dataset import AnomalyDataset
from lit_ad.data.loading import Share, Shuffle, ThreadLoader, TrainLoader, collate, collate_equal, draw_alike, join
from lit_ad.errors import UserError
from lit_ad.features.dataset import FeatureDataset
from lit_ad.image.tiling import Tiles
from lit_ad.image.view import View


def test_sizes_in_one_batch(write) -> None:
    samples = [Sample(write("a.png", (20, 24)), 0, split="test"), Sample(write("b.png", (30, 16)), 0, split="test")]
    items = [AnomalyDataset(samples, View(None))[i] for i in range(2)]
    batch = collate(items)
    assert batch.pixels.shape == (2, 3, 30, 24) and batch.canvases == [(20, 24), (30, 16)]
    for image, item, (top, left, bottom, right) in zip(batch.pixels, items, batch.boxes, strict=True):
        assert torch.equal(image[:, top:bottom, left:right], item.pixels[0])
    assert not batch.pixels[0, :, 20:].any() and not batch.pixels[1, :, :, 16:].any()
    for one, item in zip(batch.uniform(), items, strict=True):  # what networks see: each as it is in a batch of one
        assert torch.equal(one.pixels, item.pixels) and one.canvases is None
        assert (one.samples, one.sizes, one.boxes) == (item.samples, item.sizes, item.boxes)
    assert collate(items[:1]).canvases is None and collate([items[0], items[0]]).uniform()[0].pixels.shape[0] == 2
    assert batch.select([False, True]).uniform()[0].pixels.shape == (1, 3, 30, 16)
    with pytest.raises(UserError, match=r"\(20, 24\) .*a.png and \(30, 16\) .*b.png: set model.view.image_size"):
        collate_equal(items)


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_shares_hold_each_item_once_and_count_alike(count: int) -> None:
    items = [10 * i for i in range(count)]
    shares = [Share(items, 3, place) for place in range(3)]
    assert sorted(item for share in shares for item in share) == items
    assert [list(share)[:1] for share in shares] == [items[i : i + 1] for i in range(3)]
    assert {len(share) for share in shares} == {max(1, max(len(list(share)) for share in shares))}


def test_masks_of_a_batch(write) -> None:
    image = write("a.png")
    kinds = [Sample(image, 0, split="test"), Sample(image, 1, split="test"), Sample(image, 0)]
    nominal, anomalous, training = (AnomalyDataset([kind], View(16))[0] for kind in kinds)
    batch = collate([nominal, anomalous])
    assert batch.masks[0] is not None and batch.masks[1] is None
    assert collate([anomalous]).masks == [None]
    assert collate([training]).masks is None


def test_what_is_known_of_each_image_stays_in_order(write) -> None:
    samples = [Sample(write(f"{i}.png", (20 + i, 24)), i % 2, category="ab"[i % 2], split="test") for i in range(4)]
    dataset = AnomalyDataset(samples, View(16, fit="pad"))
    batch = collate([dataset[i] for i in (2, 0, 3)])
    assert batch.samples == [samples[2], samples[0], samples[3]] and batch.index.tolist() == [2, 0, 3]
    assert batch.labels.tolist() == [0, 0, 1] and batch.sizes == [(22, 24), (20, 24), (23, 24)]
    for row, i in enumerate((2, 0, 3)):
        assert torch.equal(batch.pixels[row], dataset[i].pixels[0]) and batch.boxes[row] == dataset[i].boxes[0]


def test_features_of_a_batch(write) -> None:
    images = AnomalyDataset([Sample(write(f"{i}.png"), 0) for i in range(3)], View(16))
    levels = [torch.randn(3, 8, 4, 4), torch.randn(3, 5, 7)]
    dataset = FeatureDataset(images, [[level[i : i + 1] for level in levels] for i in range(3)], pixels=False)
    batch = collate_equal([dataset[i] for i in range(3)])
    assert batch.pixels is None and len(batch) == 3
    for joined, level in zip(batch.features, levels, strict=True):
        assert torch.equal(joined, level)


def test_one_large_image_is_not_copied() -> None:
    row = torch.ones(1, 3, 8, 8)
    assert join([row]) is row and join([row, row]).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("tile", [None, 16])
def test_threads_read_what_the_process_itself_does(write, tile: int | None) -> None:
    samples = [Sample(write(f"{i}.png", (20 + i, 40)), i % 2, split="test") for i in range(7)]
    tiles = None if tile is None else Tiles([(20 + i, 40) for i in range(7)], tile, 0)
    dataset = AnomalyDataset(samples, View(None if tile else 16, tile=tile), tiles=tiles)
    more = {"batch_size": 3, "sampler": [5, 0, 6, 2], "collate_fn": collate}
    given, expected = list(ThreadLoader(dataset, **more)), list(DataLoader(dataset, **more))
    assert [batch.index.tolist() for batch in given] == [[5, 0, 6], [2]]
    for one, other in zip(given, expected, strict=True):
        assert torch.equal(one.pixels, other.pixels) and one.samples == other.samples


def test_threads_end_with_the_loader(write) -> None:
    samples = [Sample(write(f"{i}.png"), 0, split="test") for i in range(6)]
    before = threading.active_count()
    with closing(iter(ThreadLoader(AnomalyDataset(samples, View(16)), batch_size=1, collate_fn=collate))) as batches:
        next(batches)
        assert threading.active_count() > before
    assert threading.active_count() == before
    samples[2].image.write_bytes(b"no image")
    batches = iter(ThreadLoader(AnomalyDataset(samples, View(16)), batch_size=2, collate_fn=collate))
    next(batches)
    with pytest.raises(UserError, match=r"2\.png"):
        next(batches)
    assert threading.active_count() == before


def of_length(length: int) -> AnomalyDataset:
    return AnomalyDataset([Sample(Path(f"{i}.png"), 0) for i in range(length)], View(16))


@pytest.mark.parametrize("length", [8, 9])
def test_processes_share_an_epoch(length: int) -> None:
    parts = [list(Shuffle(of_length(length), 2, rank, seed=0)) for rank in range(2)]
    assert sorted(set(parts[0] + parts[1])) == list(range(length)) and len(parts[0]) == len(parts[1])


def test_the_dataset_learns_which_epoch_it_is() -> None:
    dataset = of_length(4)
    sampler = Shuffle(dataset, 1, 0, seed=0)
    orders = []
    for epoch in (0, 1):
        orders.append(list(sampler))
        assert int(dataset.epoch) == epoch
    sampler.set_epoch(0)
    assert list(sampler) == orders[0] != orders[1] and int(dataset.epoch) == 0


def loader_of(write, batch_size: int = 3, seed: int = 1, processes: int = 1, balanced: bool = False) -> TrainLoader:
    dataset = AnomalyDataset([Sample(write(f"{i}.png", (8, 8)), 0) for i in range(10)], View(8))
    sampler = Shuffle(dataset, processes, 0, seed, balanced)
    return TrainLoader(dataset, batch_size=batch_size, sampler=sampler, collate_fn=collate_equal)


def indices(batches: list[Batch]) -> list[list[int]]:
    return [batch.index.tolist() for batch in batches]


@pytest.mark.parametrize("seen", [1, 2, 4])
def test_an_epoch_resumes_after_the_batches_it_has_given(write, seen: int) -> None:
    """Where all are given, what is resumed is an epoch with nothing left."""
    loader = loader_of(write)
    epochs = [indices(list(loader)) for _ in range(3)]
    assert epochs[0] != epochs[1] and [len(batch) for batch in epochs[1]] == [3, 3, 3, 1]

    loader = loader_of(write)
    list(loader)
    batches = iter(loader)
    assert indices([next(batches) for _ in range(seen)]) == epochs[1][:seen]
    state = loader.state_dict()
    assert (state["epoch"], state["batches"]) == (1, seen)

    for number in (None, 1, 2):  # what Lightning takes the resumed epoch for: nothing, itself, the one after it
        resumed = loader_of(write)
        resumed.load_state_dict(state)
        for more, expected in enumerate((epochs[1][seen:], epochs[2])):  # the rest of it, and the next one is whole
            if number is not None:
                resumed.sampler.set_epoch(number + more)
            assert indices(list(resumed)) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 4}, "data.batch_size 3, not 4"),
        ({"seed": 2}, "seed_everything 1, not 2"),
        ({"processes": 2}, "processes 1, not 2"),
        ({"balanced": True}, "data.balanced False, not True"),
    ],
)
def test_an_epoch_is_not_finished_in_another_order(write, settings: dict[str, Any], message: str) -> None:
    """It would show images twice and others never. Where all were given, the next epoch may have any order."""
    loader = loader_of(write)
    batches = iter(loader)
    next(batches)
    with pytest.raises(UserError, match=f"within an epoch, after 1 batches, .*: {message}"):
        loader_of(write, **settings).load_state_dict(loader.state_dict())
    list(batches)
    resumed = loader_of(write, **settings)
    resumed.load_state_dict(loader.state_dict())
    assert not list(resumed)
    assert len(list(resumed)) == len(resumed)


def of_categories(**counts: int) -> AnomalyDataset:
    names = [name for name, count in counts.items() for _ in range(count)]
    return AnomalyDataset([Sample(Path(f"{i}.png"), 0, category=name) for i, name in enumerate(names)], View(16))


@pytest.mark.parametrize("processes", [1, 2])
def test_balanced_epochs_hold_as_many_of_each_category(processes: int) -> None:
    dataset = of_categories(a=3, b=20, c=7)
    names, seen = dataset.categories(), set()
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
        assert {times[i] for i in range(3)} == {3, 4}  # each of a's before one of them comes again
        assert max(times[i] for i in range(3, 23)) == 1
        seen.update(epoch_of)
    assert seen == set(range(30))  # of the large one too, over the epochs


def test_what_cannot_be_split_evenly_differs_by_one() -> None:
    dataset = of_categories(a=1, b=9)
    more = of_categories(a=1, b=1, c=9)
    assert Counter(dataset.categories()[i] for i in draw_alike(dataset.categories(), (0, 0))) == {"a": 5, "b": 5}
    counts = [Counter(more.categories()[i] for i in draw_alike(more.categories(), (0, epoch))) for epoch in range(20)]
    assert {tuple(sorted(count.values())) for count in counts} == {(3, 4, 4)}
    assert {name for count in counts for name in "abc" if count[name] == 3} == set("abc")


def test_tiles_are_balanced_by_their_images_categories() -> None:
    dataset = of_categories(a=1, b=1)
    dataset.tiles = Tiles([(16, 16), (32, 64)], 16, 0)
    assert dataset.categories() == ["a"] + ["b"] * 8
