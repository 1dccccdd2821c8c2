"""Features on disk: what is read is what was computed, never stale, never half, and training notices no difference."""

import multiprocessing
import os
import pickle
import shutil
import signal
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lit_ad.data import AnomalyDataModule, MVTec, dataset
from lit_ad.data.transforms import A
from lit_ad.methods import L2BT, STFPM, Transformaly
from lit_ad.teachers import Teacher
from lit_ad.teachers import cache as cache_file
from lit_ad.teachers.cache import FeatureCache, cached, default_directory

FORK = multiprocessing.get_context("fork")


def features(count: int = 7, scale: float = 1.0) -> list[Tensor]:
    """Two maps and a set of tokens for each input."""
    shapes = [(8, 4, 6), (16, 2, 3), (5, 12)]
    return [
        scale * torch.randn(count, *shape, generator=torch.Generator().manual_seed(i)) for i, shape in enumerate(shapes)
    ]


def batches(levels: list[Tensor], size: int = 3) -> Iterator[list[Tensor]]:
    for start in range(0, len(levels[0]), size):
        yield [level[start : start + size] for level in levels]


def never() -> Iterator[list[Tensor]]:
    raise AssertionError("computed again")


@pytest.mark.parametrize(("dtype", "precision"), [("float32", 0.0), ("float16", 2**-11), ("bfloat16", 2**-8)])
def test_what_is_read_is_what_was_computed(tmp_path: Path, dtype: str, precision: float) -> None:
    levels = features()
    store = cached(tmp_path, {}, 7, dtype, lambda: batches(levels))
    assert len(store) == 7
    for i in (0, 3, 6):
        read = store[i]
        for level, row in zip(levels, read, strict=True):
            assert row.dtype == getattr(torch, dtype)
            torch.testing.assert_close(row.float(), level[i : i + 1], rtol=precision, atol=1e-7)
        assert read[0].is_contiguous(memory_format=torch.channels_last)
    size = (store.folder / "features").stat().st_size
    assert size == sum(level.numel() for level in levels) * getattr(torch, dtype).itemsize
    there = pickle.loads(pickle.dumps(store))  # as a worker process gets it
    assert torch.equal(there[2][0], store[2][0]) and len(pickle.dumps(store)) < 500


def test_the_file_is_mapped_not_read(tmp_path: Path) -> None:
    store = cached(tmp_path, {}, 7, "float32", lambda: batches(features()))
    assert str(store.folder / "features") in Path("/proc/self/maps").read_text()


def test_computed_once_for_one_key(tmp_path: Path) -> None:
    first = cached(tmp_path, {"files": ["a", 1]}, 7, "float16", lambda: batches(features()))
    again = cached(tmp_path, {"files": ["a", 1]}, 7, "float16", never)
    assert first.folder == again.folder
    for about, dtype in (({"files": ["a", 2]}, "float16"), ({"files": ["a", 1]}, "float32")):
        other = cached(tmp_path, about, 7, dtype, lambda: batches(features(scale=2.0)))
        torch.testing.assert_close(other[1][0], 2 * again[1][0].to(other[1][0].dtype), rtol=1e-3, atol=1e-6)


def test_the_size_is_announced_and_a_small_disk_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(2000))
    with pytest.raises(
        ValueError, match=r"the disk is too small.*0\.0 MiB are free: set data.cache_dir to another disk"
    ):
        cached(tmp_path, {}, 7, "float32", lambda: batches(features()))
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]
    monkeypatch.undo()
    written: list[str] = []

    def compute() -> Iterator[list[Tensor]]:
        yield from batches(features(100), 50)
        written.append("all")

    monkeypatch.setattr(cache_file.tqdm, "write", lambda line: written.append(line))
    cached(tmp_path, {}, 100, "float32", compute, "Teacher features, train")
    assert written == [f"Teacher features, train of 100 inputs (float32): 0.1 MiB in {tmp_path}", "all"]


def test_numbers_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"up to .*e\+05, do not fit float16: set data.cache_dtype to bfloat16"):
        cached(tmp_path, {}, 7, "float16", lambda: batches(features(scale=1e5)))
    cached(tmp_path, {}, 7, "bfloat16", lambda: batches(features(scale=1e5)))
    with pytest.raises(ValueError, match="cache_dtype is 'int8', but it must be one of float16, bfloat16, float32"):
        cached(tmp_path, {}, 7, "int8", never)


def test_images_of_different_sizes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"images of different sizes: set data.image_size"):
        cached(tmp_path, {}, 2, "float32", lambda: iter([[torch.ones(1, 8, 4, 4)], [torch.ones(1, 8, 4, 5)]]))


def test_a_killed_writer_leaves_no_half_cache(tmp_path: Path) -> None:
    begun = tmp_path / "begun"

    def dying() -> Iterator[list[Tensor]]:
        yield from list(batches(features()))[:2]
        begun.touch()
        time.sleep(60)

    writer = FORK.Process(target=cached, args=(tmp_path, {}, 7, "float32", dying))
    writer.start()
    wait_for(begun)
    assert any(path.suffix == ".partial" for path in tmp_path.iterdir())
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    assert not list(tmp_path.glob("*/about.json"))
    store = cached(tmp_path, {}, 7, "float32", lambda: batches(features()))  # neither waits nor serves the half
    assert torch.equal(store[6][0], features()[0][6:])
    assert not list(tmp_path.glob("*.partial"))


def test_one_writes_while_others_wait(tmp_path: Path) -> None:
    def slowly() -> Iterator[list[Tensor]]:
        (tmp_path / f"writer-{os.getpid()}").touch()
        time.sleep(1)
        yield from batches(features())

    def work() -> None:
        store = cached(tmp_path, {}, 7, "float32", slowly)
        os._exit(0 if torch.equal(store[6][0], features()[0][6:]) else 1)

    processes = [FORK.Process(target=work) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list(tmp_path.glob("writer-*"))) == 1


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_where_it_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_directory() == tmp_path / "lit_ad/features"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_directory() == Path.home() / ".cache/lit_ad/features"


# Through the base class and the DataModule.


@pytest.fixture
def part(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for i in range(10):
        path = tmp_path / f"part/train/good/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    (tmp_path / "part/test/good").mkdir(parents=True)
    shutil.copy(path, tmp_path / "part/test/good/0.png")
    return tmp_path / "part"


class Record(L.Callback):
    """Losses of every step and every validation, and how often the teacher ran in each stage."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, teacher: type[Teacher]) -> None:
        self.losses: list[float] = []
        self.taught: list[str] = []
        self.decoded: list[str] = []
        self.stage = "fill"
        forward, read = teacher.forward, dataset.read_image
        monkeypatch.setattr(teacher, "forward", lambda t, x: (self.taught.append(self.stage), forward(t, x))[1])
        monkeypatch.setattr(dataset, "read_image", lambda p: (self.decoded.append(self.stage), read(p))[1])

    def on_train_batch_start(self, *_: Any) -> None:
        self.stage = "train"

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))

    def on_validation_start(self, *_: Any) -> None:
        self.stage = "val"

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["val/loss"]))

    def on_test_start(self, *_: Any) -> None:
        self.stage = "test"


def fit(model: Any, data: AnomalyDataModule, home: Path, epochs: int = 3) -> Record:
    with pytest.MonkeyPatch.context() as monkeypatch:
        record = Record(monkeypatch, type(model.teacher))
        trainer = L.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            callbacks=[record],
            default_root_dir=home,
        )
        trainer.fit(model, datamodule=data)
    return record


def method(kind: str, resnet_file: Path, vit_file: Path) -> Any:
    torch.manual_seed(0)
    if kind == "STFPM":
        return STFPM("resnet10t", (1, 2), str(resnet_file), lr=0.1)
    return L2BT("deit_tiny_patch16_224", (1, 3), str(vit_file))


@pytest.mark.parametrize(
    ("kind", "dtype", "tolerance"),
    [("STFPM", "float32", 1e-5), ("L2BT", "float32", 1e-5), ("L2BT", "float16", 1e-3), ("STFPM", "float16", 2e-3)],
)
def test_loss_curves_agree(
    kind: str, dtype: Any, tolerance: float, part: Path, tmp_path: Path, resnet_file: Path, vit_file: Path
) -> None:
    kwargs: Any = {"image_size": 32, "batch_size": 4, "num_workers": 0}
    plain = fit(method(kind, resnet_file, vit_file), AnomalyDataModule(MVTec(part), **kwargs), tmp_path)
    assert len(plain.losses) == 3 * (2 + 1) and plain.taught == ["train", "train", "val"] * 3
    kwargs |= {"cache_features": True, "cache_dtype": dtype, "cache_dir": tmp_path / "features"}
    for run in range(2):
        kept = fit(method(kind, resnet_file, vit_file), AnomalyDataModule(MVTec(part), **kwargs), tmp_path)
        np.testing.assert_allclose(kept.losses, plain.losses, rtol=tolerance)
        assert kept.taught == ([] if run else ["fill"] * 3)  # two batches of training images, one of validation
        if run:  # training reads no image where the method needs no pixels; validation does
            assert len(kept.decoded) == (2 if kind == "L2BT" else 10)
    assert plain.losses[-2] < plain.losses[0]


def test_a_changed_file_never_serves_stale_features(part: Path, tmp_path: Path, vit_file: Path) -> None:
    def run(**changed: Any) -> int:
        kwargs: Any = {"image_size": 32, "batch_size": 4, "cache_features": True, "cache_dir": tmp_path / "features"}
        data = AnomalyDataModule(MVTec(part), **{**kwargs, **changed})
        return len(fit(L2BT("deit_tiny_patch16_224", (1, 3), str(vit_file)), data, tmp_path, 1).taught)

    assert run() == 3
    assert run() == 0
    files = sorted((part / "train/good").iterdir())
    for file in files:
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))  # the same bytes, written again
    assert run() == 3 and run() == 0
    assert run(interpolation="bicubic") == 3 and run(image_size=(32, 48)) == 3 and run(fit="pad") == 3
    assert run(cache_dtype="bfloat16") == 3


def test_other_teachers_have_other_features(part: Path, tmp_path: Path, vit_file: Path) -> None:
    state = torch.load(vit_file, weights_only=True)
    torch.save({key: tensor + 0.01 for key, tensor in state.items()}, tmp_path / "other.pt")
    for weights, taps, runs in ((vit_file, (1, 3), 3), (tmp_path / "other.pt", (1, 3), 3), (vit_file, (2, 3), 3)):
        data = AnomalyDataModule(
            MVTec(part), image_size=32, batch_size=4, cache_features=True, cache_dir=tmp_path / "features"
        )
        assert len(fit(L2BT("deit_tiny_patch16_224", taps, str(weights)), data, tmp_path, 1).taught) == runs


def test_tiles_are_cached_too(part: Path, tmp_path: Path, vit_file: Path) -> None:
    kwargs: Any = {"image_size": None, "tile_size": 32, "batch_size": 4, "num_workers": 0}
    losses = []
    for more in ({}, {"cache_features": True, "cache_dtype": "float32", "cache_dir": tmp_path / "features"}):
        record = fit(method("L2BT", vit_file, vit_file), AnomalyDataModule(MVTec(part), **kwargs, **more), tmp_path)
        losses.append(record.losses)
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert record.taught.count("train") == 0 and record.decoded.count("train") == 0
    assert len(record.decoded) == 8 + 2  # each image once, for all its tiles


def test_features_of_any_shape(part: Path, tmp_path: Path, vit_file: Path) -> None:
    """Transformaly's teacher gives tokens, and a pass over all training images fits its Gaussians."""
    losses = []
    for cache_features in (False, True):
        torch.manual_seed(0)
        data = AnomalyDataModule(
            MVTec(part),
            image_size=32,
            batch_size=4,
            cache_features=cache_features,
            cache_dtype="float32",
            cache_dir=tmp_path / "features",
        )
        record = fit(Transformaly("deit_tiny_patch16_224", str(vit_file)), data, tmp_path, 1)
        losses.append(record.losses)
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert set(record.taught) == {"fill"}


def test_what_is_random_cannot_be_cached(part: Path) -> None:
    with pytest.raises(ValueError, match=r"cache_features .* but data.augment shows another one in every epoch"):
        AnomalyDataModule(MVTec(part), augment=[A.HorizontalFlip(p=0.5)], cache_features=True)
    with pytest.raises(ValueError, match=r"data.train_tiles: random shows another one"):
        AnomalyDataModule(MVTec(part), tile_size=32, train_tiles="random", cache_features=True)
    AnomalyDataModule(MVTec(part), train_tiles="random", cache_features=True)  # no tiles, nothing random


def test_the_store_opens_by_itself(tmp_path: Path) -> None:
    store = cached(tmp_path, {"files": []}, 7, "float32", lambda: batches(features()))
    assert torch.equal(FeatureCache(store.folder)[3][2], features()[2][3:4])
