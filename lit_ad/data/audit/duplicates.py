"""Find files with the same bytes."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_ad.batch import Sample
from lit_ad.counts import first_few, format_times
from lit_ad.data.sources.pages import list_files
from lit_ad.threads import Pool


def find_duplicates(paths: Sequence[Path], threads: int) -> list[list[Path]]:
    """Return groups of files with the same bytes. A link counts as the file that it leads to.

    Files are opened only if their sizes are equal, and read completely only if pieces from their middle are equal.
    """
    groups: dict[Any, list[Path]] = {"": list(paths)}
    with Pool(threads) as pool:
        for key in (_read_size, _hash_middle, _hash_file):
            candidates = [(name, path) for name, group in groups.items() if len(group) > 1 for path in group]
            values = pool.map(key, [path for _, path in candidates])
            groups = defaultdict(list)
            for (name, path), value in zip(candidates, values, strict=True):
                groups[name, value].append(path)
    return [group for group in groups.values() if len(group) > 1]


def _read_size(path: Path) -> int:
    """Return the size of a file in bytes."""
    return path.stat().st_size


def _hash_middle(path: Path) -> bytes:
    """Return a hash of 4 KiB from the middle of a file."""
    with path.open("rb") as file:
        file.seek(max(0, _read_size(path) // 2 - 2048))
        return hashlib.blake2b(file.read(4096), digest_size=16).digest()


def _hash_file(path: Path) -> bytes:
    """Return a hash of all bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


def list_duplicate_warnings(
    duplicates: Sequence[Sequence[Path]], train: Sequence[Sample], test: Sequence[Sample]
) -> list[str]:
    """Return a sentence for each way in which duplicates harm a training or a test.

    Args:
        duplicates: Groups of files with the same bytes.
        train: Samples to train on or held out.
        test: Samples of the test.
    """
    trained = set(list_files(train))
    anomalous = set(list_files(sample for sample in test if sample.label))
    shared, contrary, repeated, all_equal = [], [], [], False
    for group in duplicates:
        inside, outside = [p for p in group if p in trained], [p for p in group if p not in trained]
        all_equal = all_equal or len(inside) == len(train)
        if len(inside) > 1:
            repeated.append(f"{inside[0]} and {inside[1]}")
        if inside and outside:
            shared.append(f"{inside[0]} and {outside[0]}")
        bad = [p for p in outside if p in anomalous]
        if bad and len(bad) < len(outside):
            contrary.append(f"{next(p for p in outside if p not in anomalous)} and {bad[0]}")
    warnings = []
    if shared:
        warnings.append(
            f"the same file in training and test, {format_times(len(shared))}: {first_few(shared)}; metrics will be "
            "too good"
        )
    if contrary:
        warnings.append(
            f"the same file as a good and as an anomalous image of the test, {format_times(len(contrary))}: "
            f"{first_few(contrary)}"
        )
    if all_equal:
        warnings.append(f"all {len(train)} training images are equal: nothing can be learned of how good images differ")
    elif repeated:
        warnings.append(
            f"training images are copies of each other, {format_times(len(repeated))}: {first_few(repeated)}; a copy "
            "that is held out makes the threshold too low"
        )
    return warnings
