"""Features on disk: the features that are read equal the computed features, and are never outdated or incomplete."""

import multiprocessing
import os
import pickle
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from lit_ad.errors import UserError
from lit_ad.features.store import FeatureStore, load_or_compute
from tests.optional import unwrap

FORK = multiprocessing.get_context("fork")


def features(count: int = 7, scale: float = 1.0) -> list[Tensor]:
    """Make two maps and one set of tokens for each input."""
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
def test_the_features_that_are_read_equal_the_computed_features(
    tmp_path: Path, dtype: str, precision: float, capsys: pytest.CaptureFixture[str]
) -> None:
    levels = features()
    kept = load_or_compute(tmp_path, {}, 7, dtype, lambda: batches(levels))
    assert len(kept) == 7 and capsys.readouterr().err == ""  # a log gets no bar
    for i in (0, 3, 6):
        read = kept[i]
        for level, row in zip(levels, read, strict=True):
            assert row.dtype == getattr(torch, dtype)
            torch.testing.assert_close(row.float(), level[i : i + 1], rtol=precision, atol=1e-7)
        assert read[0].is_contiguous(memory_format=torch.channels_last)
    there = pickle.loads(pickle.dumps(kept))  # a worker process gets the store like this
    assert torch.equal(there[2][0], kept[2][0]) and len(pickle.dumps(kept)) < 500


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_each_tap_is_a_file_that_numpy_reads(tmp_path: Path, dtype: str) -> None:
    """Maps have their channels last, tokens stay as they are, and the file holds only the numbers and a header."""
    levels = features()
    kept = load_or_compute(tmp_path, {}, 7, dtype, lambda: batches(levels))
    assert sorted(path.name for path in kept.folder.iterdir()) == ["about.json", "tap0.npy", "tap1.npy", "tap2.npy"]
    for i, level in enumerate(levels):
        file = kept.folder / f"tap{i}.npy"
        numbers = np.load(file)
        lying = level.permute(0, 2, 3, 1) if level.ndim == 4 else level
        assert numbers.dtype == dtype and numbers.shape == lying.shape
        assert np.array_equal(numbers, lying.numpy().astype(dtype))
        assert numbers.nbytes < file.stat().st_size < numbers.nbytes + 256


def test_bfloat16_is_stored_as_16_bit_integers(tmp_path: Path) -> None:
    """NumPy has no bfloat16."""
    levels = features()
    kept = load_or_compute(tmp_path, {}, 7, "bfloat16", lambda: batches(levels))
    bits = np.load(kept.folder / "tap2.npy")
    assert bits.dtype == np.uint16 and np.array_equal(bits, levels[2].bfloat16().view(torch.int16).numpy().view("u2"))


def test_the_files_are_mapped_into_memory(tmp_path: Path) -> None:
    kept = load_or_compute(tmp_path, {}, 7, "float32", lambda: batches(features()))
    for i in range(3):
        assert str(kept.folder / f"tap{i}.npy") in Path("/proc/self/maps").read_text()


def test_a_change_of_features_does_not_change_the_files(tmp_path: Path) -> None:
    kept = load_or_compute(tmp_path, {}, 7, "float32", lambda: batches(features()))
    kept[0][2].zero_()
    assert torch.equal(FeatureStore(kept.folder)[0][2], features()[2][:1])


def test_features_are_computed_once_for_each_key(tmp_path: Path) -> None:
    first = load_or_compute(tmp_path, {"files": ["a", 1]}, 7, "float16", lambda: batches(features()))
    again = load_or_compute(tmp_path, {"files": ["a", 1]}, 7, "float16", never)
    assert first.folder == again.folder
    for about, dtype in (({"files": ["a", 2]}, "float16"), ({"files": ["a", 1]}, "float32")):
        other = load_or_compute(tmp_path, about, 7, dtype, lambda: batches(features(scale=2.0)))
        torch.testing.assert_close(other[1][0], 2 * again[1][0].to(other[1][0].dtype), rtol=1e-3, atol=1e-6)


def test_a_small_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2000))
    with pytest.raises(UserError, match=r"the disk is too small.*has 2 KiB free: set cache.directory to another disk"):
        load_or_compute(tmp_path, {}, 7, "float32", lambda: batches(features()))
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]
    monkeypatch.undo()
    kept = load_or_compute(tmp_path, {}, 7, "float32", lambda: batches(features()))
    assert kept.nbytes == 7 * 4 * (8 * 4 * 6 + 16 * 2 * 3 + 5 * 12)


def test_numbers_too_large_for_the_dtype_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"up to .*e\+05, are too large for float16: set cache.dtype to bfloat16"):
        load_or_compute(tmp_path, {}, 7, "float16", lambda: batches(features(scale=1e5)))
    load_or_compute(tmp_path, {}, 7, "bfloat16", lambda: batches(features(scale=1e5)))
    with pytest.raises(UserError, match=r"cache.dtype is 'int8', but it must be one of float16, bfloat16, float32"):
        load_or_compute(tmp_path, {}, 7, "int8", never)


def test_features_of_images_of_different_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"images of different sizes: set model.view.image_size"):
        load_or_compute(tmp_path, {}, 2, "float32", lambda: iter([[torch.ones(1, 8, 4, 4)], [torch.ones(1, 8, 4, 5)]]))


def test_a_disk_that_becomes_full_during_writing_is_a_user_error(small_disk: Callable[[str], Path]) -> None:
    """The disk had room when the first batch came."""
    disk = small_disk("2m")
    levels = features(1200)

    def compute() -> Iterator[list[Tensor]]:
        for number, batch in enumerate(batches(levels, 300)):
            if number == 2:
                (disk / "ballast").write_bytes(bytes(2**19))
            yield batch

    with pytest.raises(UserError, match=rf"cannot write the cache {disk}/cache/\w+: .*No space.*set cache.directory"):
        load_or_compute(disk / "cache", {}, 1200, "float32", compute)
    assert not [path for path in (disk / "cache").iterdir() if path.is_dir()]


def test_a_directory_that_cannot_be_created_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"^cannot write {tmp_path}/file/x: Not a directory; set cache.directory to"):
        load_or_compute(tmp_path / "file/x", {"a": 1}, 7, "float16", never)


def test_an_error_while_computing_features_is_not_reported_as_an_error_of_the_disk(tmp_path: Path) -> None:
    def compute() -> Iterator[list[Tensor]]:
        yield from batches(features(2))
        raise ConnectionResetError("by a worker that was killed")

    with pytest.raises(ConnectionResetError, match="by a worker"):
        load_or_compute(tmp_path / "cache", {}, 7, "float32", compute)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_a_killed_writer_leaves_no_incomplete_store(tmp_path: Path) -> None:
    begun = tmp_path / "begun"

    def dying() -> Iterator[list[Tensor]]:
        yield from list(batches(features()))[:2]
        begun.touch()
        time.sleep(60)

    writer = FORK.Process(target=load_or_compute, args=(tmp_path, {}, 7, "float32", dying))
    writer.start()
    wait_for(begun)
    assert any(path.suffix == ".partial" for path in tmp_path.iterdir())
    os.kill(unwrap(writer.pid), signal.SIGKILL)
    writer.join()
    assert not list(tmp_path.glob("*/about.json"))
    # The call neither waits nor reads the incomplete store.
    kept = load_or_compute(tmp_path, {}, 7, "float32", lambda: batches(features()))
    assert torch.equal(kept[6][0], features()[0][6:])
    assert not list(tmp_path.glob("*.partial"))


def test_one_process_writes_while_other_processes_wait(tmp_path: Path) -> None:
    def slowly() -> Iterator[list[Tensor]]:
        (tmp_path / f"writer-{os.getpid()}").touch()
        time.sleep(1)
        yield from batches(features())

    def work() -> None:
        kept = load_or_compute(tmp_path, {}, 7, "float32", slowly)
        os._exit(0 if torch.equal(kept[6][0], features()[0][6:]) else 1)

    processes = [FORK.Process(target=work) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list(tmp_path.glob("writer-*"))) == 1


def wait_for(path: Path) -> None:
    until = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_store_opens_from_its_folder_alone(tmp_path: Path) -> None:
    kept = load_or_compute(tmp_path, {"files": []}, 7, "float32", lambda: batches(features()))
    assert torch.equal(FeatureStore(kept.folder)[3][2], features()[2][3:4])


def test_the_time_of_the_last_use_of_a_store_is_kept(tmp_path: Path) -> None:
    """`lit-ad cache clear --older` reads this time."""
    kept = load_or_compute(tmp_path, {}, 7, "float32", lambda: batches(features()))
    about = kept.folder / "about.json"
    os.utime(about, (0, 0))
    load_or_compute(tmp_path, {}, 7, "float32", never)
    assert time.time() - about.stat().st_mtime < 60
