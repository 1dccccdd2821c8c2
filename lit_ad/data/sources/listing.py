"""List the images of folders. All sources use these functions, so that all list folders in the same way.

Links to folders are followed. Three things are skipped, and `remarks` reports them: hidden files and folders, such as
Jupyter's copies in .ipynb_checkpoints; files that operating systems leave in folders; and files of other formats.
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

# Files that Windows, macOS and storage devices leave in folders, in lower case; other such names begin with a dot.
_OF_SYSTEMS = (
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
    *("__macosx", "lost+found", "@eadir", "#recycle"),
)
_ANIMATED = (".gif", ".webp", ".avif")  # formats that may have several frames


@dataclass
class Listing:
    """The content of a folder, by kind."""

    images: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)  # folders directly in it, without hidden ones
    broken: list[Path] = field(default_factory=list)  # links that lead nowhere, named like an image or a folder
    hidden: list[Path] = field(default_factory=list)  # hidden files and folders
    other: list[Path] = field(default_factory=list)  # files of other formats
    repeated: list[Path] = field(default_factory=list)  # links to a folder that is listed already or contains the link

    def add(self, other: "Listing") -> None:
        """Add the content of another listing."""
        for name, paths in vars(other).items():
            getattr(self, name).extend(paths)

    def remarks(self) -> list[str]:
        """Return one sentence for each kind of file that is skipped."""
        kinds = Counter(path.suffix.lower() or path.name for path in self.other)
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        sentences = {
            f"files of kinds that are not read, {counts}": self.other,
            f"hidden files and folders that are left out, {len(self.hidden)}": self.hidden,
            f"links to folders that are listed already, and not followed, {len(self.repeated)}": self.repeated,
        }
        return [f"{what}: {first_few(paths)}" for what, paths in sentences.items() if paths]


@contextmanager
def os_errors_as_user_errors() -> Iterator[None]:
    """Within this context, an OSError, for example of a folder that cannot be listed, becomes a UserError that names
    the file."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot read {error.filename}: {error.strerror}; check its permissions, or its disk"
        ) from error


def is_image(path: Path) -> bool:
    """Return whether a file has the extension of an image, in any case, and is not hidden."""
    return path.suffix.lower() in EXTENSIONS and not is_hidden(path.name)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is hidden, or left by an operating system."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def list_folder(folder: Path) -> Listing:
    """List the content of a folder, sorted. Raises UserError if it cannot be read."""
    listing = Listing()
    with os_errors_as_user_errors():
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        if entries:  # raises here, and not at the first image, if the folder may be listed but not entered
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
    """Return whether an entry is a link to itself or to a file that does not exist."""
    try:
        return entry.is_symlink() and not entry.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return True
        raise


def list_tree(root: Path) -> Listing:
    """List the content of a folder and of all folders inside it; all paths begin with `root`, and are sorted.

    Each folder is listed once. Links to folders are followed last. A link is not followed if its folder is listed
    already, or contains the root or the link.

    Raises:
        UserError: A folder cannot be read.
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


def list_frame_remarks(paths: Iterable[Path]) -> list[str]:
    """Return a sentence about files with several frames, of which only the first is read, if there are any."""
    animated = [path for path in paths if path.suffix.lower() in _ANIMATED and _is_animated(path)]
    if not animated:
        return []
    return [f"files of several frames, of which the first is read, {len(animated)}: {first_few(animated)}"]


def _is_animated(path: Path) -> bool:
    """Return whether a file has several frames; False if it cannot be read, which another check reports."""
    try:
        with open_page(path) as image:
            return bool(getattr(image, "is_animated", False))
    except Exception:  # decoders raise many different errors
        return False
