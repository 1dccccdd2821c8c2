"""`lit-ad cache`. It imports neither torch nor timm, which take seconds."""

import os
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lit_ad.counts import first_few, format_count
from lit_ad.errors import UserError, check_number
from lit_ad.features.layout import (
    about_file,
    is_being_written,
    is_changed,
    is_key,
    is_partial,
    list_stores,
    read_about,
    read_runs,
    remove_store,
    store_bytes,
)
from lit_ad.files import cache_directory, format_bytes
from lit_ad.names import tell

DAY = 24 * 60 * 60  # seconds


class Cache(NamedTuple):
    """A store of features, with the facts that `lit-ad cache list` shows."""

    folder: Path
    about: dict[str, Any]  # the store's about.json: images, teachers, view; empty if it is partial or unreadable
    size: int  # bytes
    used: float  # time of its last use, in seconds since 1970
    busy: bool  # whether a process is writing it
    runs: list[list[str]]  # directory and user of each run that has used it, the latest last

    @property
    def stale(self) -> int:
        """The number of images that are gone or changed. If it is above 0, no run can use the cache again."""
        return sum(is_changed(*file) for file in self.about.get("files", []))

    @property
    def description(self) -> str:
        """Images, teachers, view and number format in words, or why they are unknown."""
        if is_partial(self.folder):
            return "being written" if self.busy else "incomplete: the run that wrote it was killed"
        if not self.about:
            return f"unknown: its {about_file(self.folder).name} cannot be read"
        files = [Path(file[0]) for file in self.about.get("files", [])]
        view = self.about.get("view", {})
        folder = f" of {os.path.commonpath({file.parent for file in files})}" if files else ""
        parts = [
            f"{format_count(self.about.get('count', 0), 'input')}{folder}",
            *(str(teacher[1]) for teacher in self.about.get("teachers", [])),
            f"image_size {view.get('image_size')}" + (f", tile {view['tile']}" if view.get("tile") else ""),
            str(self.about.get("dtype")),
        ]
        stale = f"; stale: {self.stale} of {format_count(len(files), 'image')} gone or changed" if self.stale else ""
        return ", ".join(parts) + stale

    @property
    def line(self) -> str:
        """Size, day of the last use, and description."""
        return f"{format_bytes(self.size):>10}  {datetime.fromtimestamp(self.used):%Y-%m-%d}  {self.description}"

    def tell(self) -> None:
        """Print the line, and below it the runs that have used the cache, with their users."""
        tell(self.line)
        if self.runs:
            latest = [f"{run} of {user}" if user else run for run, user in reversed(self.runs)]
            tell(f"{'':24}used by {format_count(len(latest), 'run')}: {first_few(latest)}")


def cache(
    action: Literal["list", "clear", "prune"] = "list",
    /,
    older: float | None = None,
    directory: Path | None = None,
    yes: bool = False,
) -> None:
    """List or remove what is cached: features of teachers, and the masks that a Table makes of boxes and polygons.

    Args:
        action: list prints the caches. clear removes all of them, or with --older the old ones. prune removes caches
            whose images are gone or changed, and incomplete caches of killed runs.
        older: Days. clear removes only what was not used in the last so many days.
        directory: The directory of the features, if cache.directory was set. Masks are then left alone.
        yes: Remove without asking.

    Raises:
        UserError: --older without clear or below 0, or a cache that cannot be removed.
    """
    if older is not None and action != "clear":
        raise UserError(f"--older works with clear only, not with {action}: leave it out")
    if older is not None:
        check_number("--older", older, least=0)
    masks = [] if directory else _list_masks(cache_directory() / "masks")
    features = directory or cache_directory() / "features"
    caches = _list_caches(features)
    print(f"{features}: {format_count(len(caches), 'cache')}, {format_bytes(sum(each.size for each in caches))}")
    if action == "list":
        for each in caches:
            each.tell()
        if masks:
            size = sum(mask.stat().st_size for mask in masks)
            print(f"{masks[0].parent}: {format_count(len(masks), 'mask')} of boxes and polygons, {format_bytes(size)}")
    elif action == "clear":
        limit = time.time() - older * DAY if older is not None else float("inf")
        chosen = [each for each in caches if not each.busy and each.used < limit]
        remove(chosen, [mask for mask in masks if mask.stat().st_mtime < limit], yes)
    else:  # prune keeps the masks: no file says which images they belong to
        remove([each for each in caches if not each.busy and (each.stale or not each.about)], [], yes)


def _list_caches(directory: Path) -> list[Cache]:
    """List the caches in a directory, the latest used last."""
    caches = []
    for store in list_stores(directory):
        used = max((file.stat().st_mtime for file in store.iterdir()), default=store.stat().st_mtime)
        about = {} if is_partial(store) else read_about(store)
        busy = is_partial(store) and is_being_written(store)
        caches.append(Cache(store, about, store_bytes(store), used, busy, read_runs(store)))
    return sorted(caches, key=lambda each: each.used)


def _list_masks(directory: Path) -> list[Path]:
    """List the masks that a Table has made. A mask's name is a hash of its content, as a store's name is."""
    return sorted(path for path in directory.glob("*.png") if is_key(path.stem))


def remove(caches: list[Cache], masks: list[Path], yes: bool) -> None:
    """Remove caches and masks, and print what was removed. Unless `yes`, list them and ask first.

    Raises:
        UserError: A cache cannot be removed, or there is no terminal to ask at.
    """
    if not caches and not masks:
        print("nothing to remove")
        return
    freed = sum(each.size for each in caches)
    if not yes:
        for each in caches:
            each.tell()
        if masks:
            print(f"{format_count(len(masks), 'mask')} of boxes and polygons in {masks[0].parent}")
        if not sys.stdin.isatty():
            raise UserError("nothing was removed: add --yes to remove what is listed")
        if input("Remove these? Training computes them again when it needs them. [y/N] ").strip().lower() != "y":
            print("nothing was removed")
            return
    for each in caches:
        line = each.line.lstrip()
        remove_store(each.folder)
        print(f"removed {line}")
    for mask in masks:
        freed += mask.stat().st_size
        mask.unlink(missing_ok=True)
    if masks:
        print(f"removed {format_count(len(masks), 'mask')} of boxes and polygons in {masks[0].parent}")
    print(f"{format_bytes(freed)} are free again")
