"""What lies in a folder: images, and what is passed over. Whoever lists images does it here, so that all list the same.

Links to folders are followed. Hidden files and folders, such as the copies that Jupyter keeps in .ipynb_checkpoints,
and those that systems leave in any folder, are passed over, and so are files of kinds that are not read; `remarks` says
so.
"""

import errno
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lit_ad.counts import first_few
from lit_ad.errors import UserError
from lit_ad.image.pixels import EXTENSIONS, open_page

# What Windows, macOS and storage devices leave in folders, in lower case; other such names begin with a dot.
_OF_SYSTEMS = (
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
    *("__macosx", "lost+found", "@eadir", "#recycle"),
)
_ANIMATED = (".gif", ".webp", ".avif")  # kinds that may have several frames


@dataclass
class Listing:
    """What lies in a folder, by what is done with it."""

    images: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)  # directly in it, without hidden ones
    broken: list[Path] = field(default_factory=list)  # links that lead nowhere, called like an image or a folder
    hidden: list[Path] = field(default_factory=list)  # files and folders
    other: list[Path] = field(default_factory=list)  # files of kinds that are not read
    repeated: list[Path] = field(default_factory=list)  # links to folders that are listed already, or are around them

    def add(self, other: "Listing") -> None:
        """Take over what another one has."""
        for name, paths in vars(other).items():
            getattr(self, name).extend(paths)

    def remarks(self) -> list[str]:
        """What is passed over: a sentence for each kind of it."""
        kinds = Counter(path.suffix.lower() or path.name for path in self.other)
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        sentences = {
            f"files of kinds that are not read, {counts}": self.other,
            f"hidden files and folders that are left out, {len(self.hidden)}": self.hidden,
            f"links to folders that are listed already, and not followed, {len(self.repeated)}": self.repeated,
        }
        return [f"{what}: {first_few(paths)}" for what, paths in sentences.items() if paths]


@contextmanager
def readable() -> Iterator[None]:
    """Turn the OSError of a folder that the system does not let us list into a UserError that names it."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot read {error.filename}: {error.strerror}; see to its permissions, or its disk"
        ) from error


def is_image(path: Path) -> bool:
    """Whether the name is an image's, in capitals or not; a hidden one is not."""
    return path.suffix.lower() in EXTENSIONS and not is_hidden(path.name)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or left by a system."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def list_folder(folder: Path) -> Listing:
    """What lies directly in a folder, sorted. Raises UserError if it cannot be read."""
    listing = Listing()
    with readable():
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        if entries:  # a folder that may be listed but not entered is told of here, and not at its first image
            Path(entries[0]).lstat()
        for entry in entries:
            path = Path(entry.path)
            if is_hidden(entry.name):
                listing.hidden.append(path)
            elif _leads_nowhere(entry):
                (listing.broken if is_image(path) or not path.suffix else listing.other).append(path)
            elif entry.is_dir():
                listing.folders.append(path)
            else:
                (listing.images if is_image(path) and entry.is_file() else listing.other).append(path)
    return listing


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    """Whether it is a link to what is not there, or to itself."""
    try:
        return entry.is_symlink() and not entry.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return True
        raise


def list_tree(root: Path) -> Listing:
    """What lies in a folder and in the folders inside it; all paths begin with `root`, and are sorted.

    Each folder is listed once. Links to folders are followed after all others, but not to folders that are listed
    already or that lie around the root or the link. Raises UserError if a folder cannot be read.
    """
    listing = Listing()
    seen: set[Path] = set()
    folders, links = [root], list[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        place, parents = folder.resolve(), [*root.resolve().parents, *folder.parent.resolve().parents]
        if place in seen or (folder != root and place in parents):
            listing.repeated.append(folder)
            continue
        seen.add(place)
        direct = list_folder(folder)
        folders += [inner for inner in direct.folders if not inner.is_symlink()]
        links = sorted([*links, *(inner for inner in direct.folders if inner.is_symlink())])
        listing.add(direct)
    for paths in vars(listing).values():
        paths.sort()
    return listing


def frame_remarks(paths: Iterable[Path]) -> list[str]:
    """A sentence about the files with several frames, if there are any: their first one is read."""
    animated = [path for path in paths if path.suffix.lower() in _ANIMATED and _is_animated(path)]
    if not animated:
        return []
    return [f"files of several frames, of which the first is read, {len(animated)}: {first_few(animated)}"]


def _is_animated(path: Path) -> bool:
    """Whether a file has several frames. Whoever reads it tells of one that cannot be read."""
    try:
        with open_page(path) as image:
            return bool(getattr(image, "is_animated", False))
    except Exception:  # decoders raise all sorts
        return False
