"""Loaders: reading with threads, and epochs that resume."""

import os
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import albumentations as A
import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from lit_ad.batch import Batch, Sample
from lit_ad.data import AnomalyDataModule, Loading, MVTec
from lit_ad.data.collation import collate, collate_equal
from lit_ad.data.corrupt import CutPaste, Perlin
from lit_ad.data.dataset import AnomalyDataset
from lit_ad.data.loading import ThreadLoader, TrainLoader
from lit_ad.data.sampling import Shuffle
from lit_ad.errors import UserError
from lit_ad.image.tiling import Tiles
from lit_ad.image.view import View
from tests.data.conftest import Write
from tests.data.loaded import module, order
from tests.optional import unwrap


@pytest.mark.parametrize("tile", [None, 16])
def test_threads_read_the_same_batches_as_the_process_itself(write: Write, tile: int | None) -> None:
    samples = [Sample(write(f"{i}.png", (20 + i, 40)), i % 2, split="test") for i in range(7)]
    tiles = None if tile is None else Tiles([(20 + i, 40) for i in range(7)], tile, 0)
    dataset = AnomalyDataset(samples, View(None if tile else 16, tile=tile), tiles=tiles)
    more: dict[str, Any] = {"batch_size": 3, "sampler": [5, 0, 6, 2], "collate_fn": collate}
    given, expected = list(ThreadLoader(dataset, **more)), list(DataLoader(dataset, **more))
    assert [batch.index.tolist() for batch in given] == [[5, 0, 6], [2]]
    for one, other in zip(given, expected, strict=True):
        assert torch.equal(unwrap(one.pixels), unwrap(other.pixels)) and one.samples == other.samples


def test_threads_end_with_the_loader(write: Write) -> None:
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


def loader_of(
    write: Write, batch_size: int = 3, seed: int = 1, processes: int = 1, balanced: bool = False
) -> TrainLoader:
    dataset = AnomalyDataset([Sample(write(f"{i}.png", (8, 8)), 0) for i in range(10)], View(8))
    sampler = Shuffle(dataset, processes, 0, seed, balanced)
    return TrainLoader(dataset, batch_size=batch_size, sampler=sampler, collate_fn=collate_equal)


def indices(batches: list[Batch]) -> list[list[int]]:
    return [batch.index.tolist() for batch in batches]


@pytest.mark.parametrize("seen", [1, 2, 4])
def test_an_epoch_resumes_after_the_batches_it_has_given(write: Write, seen: int) -> None:
    """Where the epoch has given all batches, the resumed epoch has no batch left."""
    loader = loader_of(write)
    epochs = [indices(list(loader)) for _ in range(3)]
    assert epochs[0] != epochs[1] and [len(batch) for batch in epochs[1]] == [3, 3, 3, 1]

    loader = loader_of(write)
    list(loader)
    batches = iter(loader)
    assert indices([next(batches) for _ in range(seen)]) == epochs[1][:seen]
    state = loader.state_dict()
    assert (state["epoch"], state["batches"]) == (1, seen)

    for number in (None, 1, 2):  # Lightning sets no epoch, the same epoch, or the next epoch
        resumed = loader_of(write)
        resumed.load_state_dict(state)
        # The rest of the epoch, then the whole next epoch.
        for more, expected in enumerate((epochs[1][seen:], epochs[2])):
            if number is not None:
                resumed.sampler.set_epoch(number + more)
            assert indices(list(resumed)) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 4}, "data.batch_size 3, not 4"),
        ({"seed": 2}, "seed_everything 1, not 2"),
        ({"processes": 2}, "processes 1, not 2"),
        ({"balanced": True}, "data.loading.balanced False, not True"),
    ],
)
def test_an_epoch_cannot_resume_in_another_order(write: Write, settings: dict[str, Any], message: str) -> None:
    """Another order would show some images twice and others never. After a complete epoch, the next epoch may have any
    order."""
    loader = loader_of(write)
    batches = iter(loader)
    next(batches)
    with pytest.raises(UserError, match=f"within an epoch, after 1 batch, .*: {message}"):
        loader_of(write, **settings).load_state_dict(loader.state_dict())
    list(batches)
    resumed = loader_of(write, **settings)
    resumed.load_state_dict(loader.state_dict())
    assert not list(resumed)
    assert len(list(resumed)) == len(resumed)


def test_a_setting_that_is_missing_in_an_older_checkpoint_is_not_compared(write: Write) -> None:
    loader, epoch = loader_of(write), indices(list(loader_of(write)))
    next(iter(loader))
    state = loader.state_dict()
    state["order"].pop("data.loading.balanced")
    resumed = loader_of(write)
    resumed.load_state_dict(state)
    assert indices(list(resumed)) == epoch[1:]


def test_drop_last_leaves_out_the_last_smaller_batch(bottle: Path) -> None:
    def loaded(batch_size: int, drop_last: bool) -> list[int]:
        data = AnomalyDataModule(MVTec(bottle), View(32), batch_size, loading=Loading(drop_last=drop_last))
        return [len(batch) for batch in data.train_dataloader()]

    whole = loaded(3, False)
    assert whole[-1] < 3 and loaded(3, True) == whole[:-1]
    with pytest.raises(UserError, match=rf"of {sum(whole)} images there is no batch of 100; lower data.batch_size"):
        loaded(100, True)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_number_of_workers_follows_from_processor_cache_and_augmentation(
    bottle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def workers(**kwargs: object) -> tuple[int, int]:
        data = module(bottle, View(16), **kwargs)
        return data.train_dataloader().num_workers, data.test_dataloader().num_workers

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(3))
    assert workers() == (0, 2)
    assert workers(cache_images=False) == (2, 2)
    assert workers(augment=[A.HorizontalFlip()]) == workers(corrupt=CutPaste()) == (2, 2)
    assert workers(num_workers=1) == (1, 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    assert workers(cache_images=False) == (4, 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(1))
    assert workers(cache_images=False) == (0, 0)


def test_evaluation_on_a_cpu_reads_with_threads_instead_of_workers(
    bottle: Path, tmp_path: Path, quiet_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers would be forked from a process that holds the networks, and the system would then copy that memory page
    by page."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(3))

    def loaders(**kwargs: object) -> list[tuple[type, int]]:
        data = module(bottle, View(16), cache_images=False, **kwargs)
        data.trainer = quiet_trainer(tmp_path)
        data.setup("fit")
        made = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader(), data.predict_dataloader())
        return [(type(loader), loader.num_workers) for loader in made]

    assert loaders() == [(TrainLoader, 2)] + 3 * [(ThreadLoader, 0)]
    assert loaders(num_workers=1) == [(TrainLoader, 1)] + 3 * [(DataLoader, 1)]
    assert loaders(num_workers=0) == [(TrainLoader, 0)] + 3 * [(DataLoader, 0)]


def test_the_order_depends_on_seed_and_epoch_alone(bottle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def epochs(seed: int, draws: int) -> list[list[int]]:
        monkeypatch.setitem(os.environ, "PL_GLOBAL_SEED", str(seed))
        loader = AnomalyDataModule(MVTec(bottle), View(16), batch_size=4).train_dataloader()
        orders = []
        for _ in range(3):
            torch.rand(draws)  # random numbers that the model draws must not change the order
            orders.append(order(loader))
        return orders

    one = epochs(1, 2)
    assert one == epochs(1, 5) and one != epochs(2, 2)
    assert one[0] != one[1] != one[2]
    monkeypatch.setitem(os.environ, "PL_GLOBAL_SEED", "1")
    resumed = AnomalyDataModule(MVTec(bottle), View(16), batch_size=4).train_dataloader()
    assert isinstance(resumed.sampler, Shuffle)
    resumed.sampler.set_epoch(2)
    assert order(resumed) == one[2]


def test_loading_does_not_change_the_random_state_of_the_model(bottle: Path) -> None:
    data = AnomalyDataModule(MVTec(bottle), View(16))
    state = torch.get_rng_state()
    order(data.train_dataloader())
    order(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("setting", [{"augment": [A.GaussNoise(p=1)]}, {"corrupt": Perlin()}, {"corrupt": CutPaste()}])
def test_augmentation_and_corruption_do_not_depend_on_the_number_of_workers(
    bottle: Path, setting: dict[str, Any]
) -> None:
    shown = "pixels" if "augment" in setting else "corrupted"

    def epochs(workers: int) -> list[torch.Tensor]:
        data = module(bottle, View(16), batch_size=4, num_workers=workers, **setting)
        loader = data.train_dataloader()
        return [torch.cat([getattr(b, shown)[b.index.argsort()] for b in loader]) for _ in range(2)]

    alone, many = epochs(0), epochs(2)
    assert torch.equal(alone[0], many[0]) and torch.equal(alone[1], many[1])
    assert not torch.equal(alone[0], alone[1])


def test_an_unreadable_file_is_a_user_error_also_in_a_worker(bottle: Path) -> None:
    """A worker sends the text of its traceback. The message is the last line of that text."""
    (bottle / "test/good/000.png").write_text("not an image")
    for workers in (0, 1):
        data = AnomalyDataModule(MVTec(bottle), View(16), loading=Loading(num_workers=workers))
        with pytest.raises(UserError) as caught:
            list(data.test_dataloader())
        assert str(caught.value).startswith(f"cannot read {bottle / 'test/good/000.png'}: ")
        assert str(caught.value).endswith("; replace or remove it")


def test_a_training_with_overfit_batches_can_be_saved(bottle: Path, brightness: Any, tmp_path: Path) -> None:
    model = brightness(View(16))
    data = AnomalyDataModule(MVTec(bottle), model.view, loading=Loading(num_workers=0))
    trainer = L.Trainer(accelerator="cpu", max_epochs=2, overfit_batches=1, logger=False, default_root_dir=tmp_path)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert trainer.global_step == 2
