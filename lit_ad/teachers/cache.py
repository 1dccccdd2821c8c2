"""Teacher features computed once and kept on disk, memory-mapped, shared by the processes of a machine.

A cache is a folder DIRECTORY/KEY with `features`, the numbers, and `about.json`, what they are of. KEY is a hash of
everything the features depend on, so nothing stale is ever served: what changed has another key. The folder appears
under its name when it is complete and on disk; whoever writes it holds KEY.lock, which the system lets go of when a
writer dies, and the others wait for it. Any of it may be deleted between runs.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

FORMAT = 1  # of the files, and of what a key stands for
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


class FeatureCache:
    """The features of `count` network inputs: for each tap one memory-mapped block, an input's part in one piece.

    Maps lie channels last, as convolutions and per-token layers read them fastest.
    """

    def __init__(self, folder: Path) -> None:
        about = json.loads((folder / "about.json").read_text())
        dtype, shapes = DTYPES[about["dtype"]], [torch.Size(shape) for shape in about["shapes"]]
        self.folder, self.count = folder, int(about["count"])
        numbers = torch.from_file(
            str(folder / "features"), shared=False, size=self.count * sum(s.numel() for s in shapes), dtype=dtype
        )
        blocks = numbers.split([self.count * shape.numel() for shape in shapes])
        self.taps = [block.view(self.count, *shape) for block, shape in zip(blocks, shapes, strict=True)]

    def __reduce__(self) -> tuple[type["FeatureCache"], tuple[Path]]:
        return FeatureCache, (self.folder,)  # a worker process maps the file itself

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> list[Tensor]:
        """Of one input, as views of the file: (1, C, h, w) of each tap."""
        return [channels_first(tap[index : index + 1]) for tap in self.taps]


def cached(
    directory: Path,
    about: Mapping[str, Any],
    count: int,
    dtype: str,
    compute: Callable[[], Iterable[Sequence[Tensor]]],
    title: str = "Teacher features",
) -> FeatureCache:
    """The cache of what `about` describes, written first if there is none.

    Args:
        directory: Where caches are kept.
        about: All that the features depend on, as JSON.
        count: Number of inputs.
        dtype: Of the numbers on disk: float16, bfloat16 or float32.
        compute: Gives the features of all inputs in order, in batches: (b, C, h, w) of each tap.
        title: What to call it when its size is announced.

    Raises:
        ValueError: Unknown dtype, a disk that is too small, inputs of different sizes, numbers that dtype cannot hold.
        OSError: The cache cannot be written.
    """
    if dtype not in DTYPES:
        raise ValueError(f"cache_dtype is {dtype!r}, but it must be one of {', '.join(DTYPES)}")
    about = {**about, "format": FORMAT, "timm": timm.__version__, "count": count, "dtype": dtype}
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
    folder, partial = directory / key, directory / f"{key}.partial"
    if not folder.is_dir():
        directory.mkdir(parents=True, exist_ok=True)
        with FileLock(directory / f"{key}.lock"):  # the system takes it back from a process that dies
            if not folder.is_dir():  # nobody wrote it while we waited
                shutil.rmtree(partial, ignore_errors=True)  # of a writer that was killed
                try:
                    partial.mkdir()
                    write(partial, about, count, DTYPES[dtype], compute(), title)
                    partial.rename(folder)
                    sync(directory)
                except OSError as error:
                    raise OSError(
                        f"cannot write the cache {folder}: {error}; set data.cache_dir to another disk, or "
                        "data.cache_features to false"
                    ) from error
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
    return FeatureCache(folder)


def write(
    folder: Path,
    about: Mapping[str, Any],
    count: int,
    dtype: torch.dtype,
    batches: Iterable[Sequence[Tensor]],
    title: str,
) -> None:
    """Stream batches of features to `folder`, and see them on disk. Raises ValueError as `cached` says."""
    shapes: list[torch.Size] = []
    starts: list[int] = []
    done = 0
    with (folder / "features").open("wb") as file, tqdm(total=count, desc=title, leave=False) as bar:
        for features in batches:
            levels = [channels_last(level) for level in features]
            if not shapes:
                shapes = [level.shape[1:] for level in levels]
                sizes = [count * shape.numel() * dtype.itemsize for shape in shapes]
                starts = [sum(sizes[:i]) for i in range(len(sizes))]
                announce(folder.parent, sum(sizes), f"{title} of {count} inputs ({about['dtype']})")
            elif shapes != [level.shape[1:] for level in levels]:
                raise ValueError(
                    "features cannot be cached for images of different sizes: set data.image_size, or train on tiles "
                    "with data.tile_size, or set data.cache_features to false"
                )
            for level, start in zip(levels, starts, strict=True):
                numbers = level.detach().to("cpu", dtype).contiguous()
                if not numbers.isfinite().all():
                    raise ValueError(
                        f"the teacher's features, up to {float(level.abs().max()):.3g}, do not fit {about['dtype']}: "
                        "set data.cache_dtype to bfloat16 or float32"
                    )
                file.seek(start + done * numbers[0].numel() * dtype.itemsize)
                file.write(numbers.view(-1).view(torch.uint8).numpy().data)
            done += len(levels[0])
            bar.update(len(levels[0]))
        assert done == count, f"features of {done} inputs where {count} were to come"
        file.flush()
        os.fsync(file.fileno())
    with (folder / "about.json").open("w") as file:
        json.dump({**about, "shapes": [list(shape) for shape in shapes]}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    sync(folder)


def announce(directory: Path, size: int, what: str) -> None:
    """Say what will be written, before it is. Raises ValueError if the disk is too small."""
    free = shutil.disk_usage(directory).free
    said = f"{what}: {size / 2**20:.1f} MiB in {directory}"
    if size > 0.98 * free:  # a file system wants some for itself
        raise ValueError(
            f"the disk is too small for the cache. {said}, where {free / 2**20:.1f} MiB are free: set data.cache_dir "
            "to another disk, data.cache_dtype to float16, or data.cache_features to false"
        )
    tqdm.write(said)


def default_directory() -> Path:
    """$XDG_CACHE_HOME/lit_ad/features, which is in ~/.cache if that is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lit_ad" / "features"


def sync(folder: Path) -> None:
    """See a folder's entries on disk, where folders can be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def channels_last(level: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h, w, C); anything else, such as tokens (B, N, D), stays."""
    return level.permute(0, 2, 3, 1) if level.ndim == 4 else level


def channels_first(level: Tensor) -> Tensor:
    """(B, h, w, C) -> (B, C, h, w), the inverse of `channels_last`."""
    return level.permute(0, 3, 1, 2) if level.ndim == 4 else level
