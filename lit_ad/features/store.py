"""A store of the frozen part's features on disk: computed once, memory-mapped, shared by the processes of a machine.

A store is a folder DIRECTORY/KEY: see layout.py. KEY is a hash of everything that the features depend on, so that
changed inputs get another store, and no store is ever out of date. The folder gets its name when it is complete;
processes that need it earlier wait for its writer. Any store may be deleted between runs, as `lit-ad cache` does.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import timm
import torch
from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from lit_ad.counts import format_count
from lit_ad.errors import UserError
from lit_ad.features.layout import DTYPES, KEY_LENGTH, about_file, lock_file, partial_folder, tap_file
from lit_ad.files import explain_write_errors, format_bytes, sync_folder

REMEDY = "set cache.directory to another disk, or cache.enabled to false"
_FORMAT = 3  # version of the files and of the key


class FeatureStore:
    """The features of `count` network inputs, memory-mapped. Maps are stored channels last, which convolutions read
    fastest.

    Args:
        folder: DIRECTORY/KEY.
    """

    def __init__(self, folder: Path) -> None:
        about = json.loads(about_file(folder).read_text(encoding="utf-8"))
        self.folder, self.count = folder, int(about["count"])
        # Copy on write: torch needs memory that it may write to, and the file must not change.
        arrays = [np.load(tap_file(folder, i), mmap_mode="c") for i in range(len(about["shapes"]))]
        self.taps = [torch.from_numpy(array).view(getattr(torch, about["dtype"])) for array in arrays]

    def __reduce__(self) -> tuple[type["FeatureStore"], tuple[Path]]:
        return FeatureStore, (self.folder,)  # a worker process maps the files itself

    def __len__(self) -> int:
        return self.count

    @property
    def nbytes(self) -> int:
        """Bytes of all features."""
        return sum(tap.nbytes for tap in self.taps)

    def __getitem__(self, index: int) -> list[Tensor]:
        """Return the features of one input as views of the files: (1, C, h, w) of each tap."""
        return [channels_first(tap[index : index + 1]) for tap in self.taps]


def load_or_compute(
    directory: Path,
    about: Mapping[str, Any],
    count: int,
    dtype: str,
    compute: Callable[[], Iterable[Sequence[Tensor]]],
    title: str = "Teacher features",
) -> FeatureStore:
    """Return the store of the features that `about` describes. Compute and write it first if it does not exist.

    Args:
        directory: The folder of all stores.
        about: Everything that the features depend on, as JSON values.
        count: Number of inputs.
        dtype: Type of the numbers on disk: float16, bfloat16 or float32.
        compute: Yields the features of all inputs in order, in batches: (b, C, h, w) of each tap.
        title: Title of the progress bar.

    Raises:
        UserError: The dtype is unknown or cannot hold a number, the disk is too small or fails, or the inputs have
            different sizes.
    """
    folder = store_path(directory, about, count, dtype)
    partial = partial_folder(folder)
    input_errors: list[OSError] = []  # errors of reading the inputs, not of writing the store

    def batches() -> Iterator[Sequence[Tensor]]:
        try:
            yield from compute()
        except OSError as error:
            input_errors.append(error)
            raise

    if not folder.is_dir():
        with explain_write_errors(directory, REMEDY):
            directory.mkdir(parents=True, exist_ok=True)
            lock = FileLock(lock_file(folder)).acquire()
        with lock:  # the system releases it if this process dies
            if not folder.is_dir():  # no other process wrote it while this one waited
                shutil.rmtree(partial, ignore_errors=True)  # a killed writer may have left it
                try:
                    partial.mkdir()
                    write(partial, _full_key(about, count, dtype), batches(), title)
                    partial.rename(folder)
                    sync_folder(directory)
                except OSError as error:
                    if error in input_errors:
                        raise
                    raise UserError(f"cannot write the cache {folder}: {error}; {REMEDY}") from error
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
    with suppress(OSError):  # the directory may be another user's and read-only
        os.utime(about_file(folder))  # time of the last use, for `lit-ad cache clear --older`
    return FeatureStore(folder)


def store_path(directory: Path, about: Mapping[str, Any], count: int, dtype: str) -> Path:
    """Return DIRECTORY/KEY of the features that `about` describes; the folder need not exist.

    Raises:
        UserError: The dtype is unknown.
    """
    if dtype not in DTYPES:
        raise UserError(f"cache.dtype is {dtype!r}, but it must be one of {', '.join(DTYPES)}")
    described = json.dumps(_full_key(about, count, dtype), sort_keys=True)
    return directory / hashlib.sha256(described.encode()).hexdigest()[:KEY_LENGTH]


def _full_key(about: Mapping[str, Any], count: int, dtype: str) -> dict[str, Any]:
    """Return all values that KEY is a hash of."""
    return {**about, "format": _FORMAT, "timm": timm.__version__, "count": count, "dtype": dtype}


def write(folder: Path, about: Mapping[str, Any], batches: Iterable[Sequence[Tensor]], title: str) -> None:
    """Write batches of features to `folder`, and flush them to the disk.

    The files are written as streams and not by a memory map: if the disk is full, a stream raises an error, but a
    memory map kills the process.

    Raises:
        UserError: As for `load_or_compute`.
    """
    count, dtype = int(about["count"]), getattr(torch, about["dtype"])
    shapes: list[torch.Size] = []
    done = 0
    with ExitStack() as open_files, tqdm(total=count, desc=title, leave=False, disable=None) as bar:
        files: list[BinaryIO] = []
        for features in batches:
            levels = [channels_last(level) for level in features]
            if not shapes:
                shapes = [level.shape[1:] for level in levels]
                size = count * dtype.itemsize * sum(shape.numel() for shape in shapes)
                _check_free_space(folder.parent, size, f"{title} of {format_count(count, 'input')} ({about['dtype']})")
                for number, shape in enumerate(shapes):
                    files.append(open_files.enter_context(tap_file(folder, number).open("wb")))
                    _write_header(files[-1], (count, *shape), dtype)
            elif shapes != [level.shape[1:] for level in levels]:
                raise UserError(
                    "features cannot be cached for images of different sizes: set model.view.image_size, or train on "
                    "tiles with model.view.tile, or set cache.enabled to false"
                )
            for level, file in zip(levels, files, strict=True):
                numbers = level.detach().to("cpu", dtype).contiguous()
                if not numbers.isfinite().all():
                    raise UserError(
                        f"the teacher's features, up to {float(level.abs().max()):.3g}, are too large for "
                        f"{about['dtype']}: set cache.dtype to bfloat16 or float32"
                    )
                file.write(numbers.view(-1).view(torch.uint8).numpy().data)
            done += len(levels[0])
            bar.update(len(levels[0]))
        assert done == count, f"`compute` gave features of {done} inputs instead of {count}"
        for file in files:
            file.flush()
            os.fsync(file.fileno())
    with about_file(folder).open("w", encoding="utf-8") as text:
        json.dump({**about, "shapes": [list(shape) for shape in shapes]}, text, indent=1)
        text.flush()
        os.fsync(text.fileno())
    sync_folder(folder)


def _write_header(file: BinaryIO, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Write the header of a .npy file, whose numbers follow in batches. NumPy has no bfloat16: its bits are stored as
    uint16."""
    kind = np.dtype(np.uint16) if dtype == torch.bfloat16 else torch.zeros(0, dtype=dtype).numpy().dtype
    header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(file, header)


def _check_free_space(directory: Path, size: int, what: str) -> None:
    """Raise UserError if the disk of a directory has no room for `size` bytes."""
    free = shutil.disk_usage(directory).free
    if size > 0.98 * free:  # a file system needs some space for itself
        raise UserError(
            f"the disk is too small for the cache: {what} need {format_bytes(size)}, but {directory} has "
            f"{format_bytes(free)} free: set cache.directory to another disk, cache.dtype to float16, or "
            "cache.enabled to false"
        )


def channels_last(level: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h, w, C); other shapes, such as tokens (B, N, D), are unchanged."""
    return level.permute(0, 2, 3, 1) if level.ndim == 4 else level


def channels_first(level: Tensor) -> Tensor:
    """(B, h, w, C) -> (B, C, h, w), the inverse of `channels_last`."""
    return level.permute(0, 3, 1, 2) if level.ndim == 4 else level
