"""`lit-ad cache [list | clear | prune]`: the feature caches on this machine, and how to be rid of them. Beside them lie
the masks that a Table makes of boxes and polygons, which the next run would make again.

It reads what teachers/store.py writes, a folder KEY with about.json in it, KEY.partial until it is whole and KEY.lock
while somebody writes it, and does so by itself: to import the store would take seconds.
"""

import json
import os
import shutil
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from filelock import FileLock, Timeout

from lit_ad.errors import UserError
from lit_ad.files import amount, cache_directory
from lit_ad.image.pixels import split_page

DAY = 24 * 60 * 60


class Cache(NamedTuple):
    """One folder of features."""

    folder: Path
    about: dict[str, Any]  # what it is of; empty where it is not whole, or not ours to read
    size: int  # bytes
    used: float  # when it last served, in seconds since 1970
    busy: bool  # somebody is writing it

    @property
    def stale(self) -> int:
        """The images that are gone or were written again since: with one of them it will never serve again."""
        return sum(changed(*file) for file in self.about.get("files", []))

    @property
    def what(self) -> str:
        """What it is of, in words."""
        if self.folder.suffix == ".partial":
            return "being written" if self.busy else "half written, by a run that was killed"
        if not self.about:
            return "unknown: no about.json that can be read"
        files = [Path(file[0]) for file in self.about.get("files", [])]
        view = self.about.get("view", {})
        parts = [
            f"{self.about.get('count')} inputs"
            + (f" of {os.path.commonpath({f.parent for f in files})}" if files else ""),
            *(str(teacher[1]) for teacher in self.about.get("teachers", [])),
            f"image_size {view.get('image_size')}" + (f", tile {view['tile']}" if view.get("tile") else ""),
            str(self.about.get("dtype")),
        ]
        stale = self.stale
        return ", ".join(parts) + (f"; stale: {stale} of {len(files)} images are gone or changed" if stale else "")

    @property
    def line(self) -> str:
        """Size, day of the last use, and what it is of."""
        return f"{amount(self.size):>10}  {datetime.fromtimestamp(self.used):%Y-%m-%d}  {self.what}"


def caches(directory: Path) -> list[Cache]:
    """All in a directory, the latest last."""
    found = []
    for folder in directory.iterdir() if directory.is_dir() else ():
        if not folder.is_dir() or not is_key(folder.stem) or folder.suffix not in ("", ".partial"):
            continue
        files = [path for path in folder.iterdir() if path.is_file()]
        used = max((path.stat().st_mtime for path in files), default=folder.stat().st_mtime)
        about = {} if folder.suffix else read(folder / "about.json")
        busy = bool(folder.suffix) and held(lock_of(folder))
        found.append(Cache(folder, about, sum(path.stat().st_size for path in files), used, busy))
    return sorted(found, key=lambda cache: cache.used)


def is_key(name: str) -> bool:
    """Whether a store would call a folder so: nothing else is ever removed."""
    return len(name) == 24 and set(name) <= set("0123456789abcdef")


def read(about: Path) -> dict[str, Any]:
    """What about.json says, or nothing."""
    try:
        said = json.loads(about.read_text())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def changed(path: str, size: int, modified: int) -> bool:
    """Whether an image is gone, or another than it was."""
    try:
        now = split_page(Path(path))[0].stat()
    except OSError:
        return True
    return (now.st_size, now.st_mtime_ns) != (size, modified)


def lock_of(folder: Path) -> Path:
    """The lock of whoever writes it."""
    return folder.with_name(f"{folder.stem}.lock")


def held(lock: Path) -> bool:
    """Whether somebody holds a lock."""
    if not lock.is_file():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def remove(cache: Cache) -> None:
    """Take a cache off the disk, its description last: what is left of it when this is interrupted can be seen."""
    try:
        for path in sorted(cache.folder.iterdir(), key=lambda path: path.name == "about.json"):
            path.unlink()
        shutil.rmtree(cache.folder)
        if not held(lock_of(cache.folder)):
            lock_of(cache.folder).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot remove {cache.folder}: {error.strerror}") from error


def shape_masks(directory: Path) -> list[Path]:
    """The masks that data/table.py has made, in a directory."""
    return sorted(path for path in directory.glob("*.png") if is_key(path.stem)) if directory.is_dir() else []


def cache(
    action: Literal["list", "clear", "prune"] = "list",
    /,
    older: float | None = None,
    directory: Path | None = None,
) -> None:
    """List or remove what is cached.

    Args:
        action: list them (default); clear: remove all, or with --older those unused for so long; prune: remove those
            whose images are gone or changed, and what killed runs left half written.
        older: With clear: days; only caches not used for so long are removed.
        directory: Where the caches are, if cache.directory was set.
    """
    if older is not None and action != "clear":
        raise UserError(f"--older goes with clear, and not with {action}")
    own, directory = directory is not None, directory or cache_directory() / "features"
    there = caches(directory)
    masks = [] if own else shape_masks(cache_directory() / "masks")
    print(f"{directory}: {len(there) or 'no'} cache{'s' * (len(there) != 1)}, {amount(sum(c.size for c in there))}")
    if action == "list":
        for cache in there:
            print(cache.line)
        if masks:
            size = sum(mask.stat().st_size for mask in masks)
            print(f"{masks[0].parent}: {len(masks)} masks of boxes and polygons, {amount(size)}")
        return
    if action == "clear":
        before = time.time() - (older or 0) * DAY
        chosen = [cache for cache in there if not cache.busy and (older is None or cache.used < before)]
        masks = [mask for mask in masks if older is None or mask.stat().st_mtime < before]
    else:
        masks = []  # which images they are of is in no file
        chosen = [c for c in there if not c.busy and (c.stale or c.folder.suffix or not c.about)]
    for cache in chosen:
        remove(cache)
        print(f"removed {cache.line.lstrip()}")
    freed = sum(cache.size for cache in chosen)
    for mask in masks:
        freed += mask.stat().st_size
        mask.unlink(missing_ok=True)
    if masks:
        print(f"removed {len(masks)} masks of boxes and polygons in {masks[0].parent}")
    print(f"{amount(freed)} are free again")
