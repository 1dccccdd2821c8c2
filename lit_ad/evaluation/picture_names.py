"""Names for the files of an image, such as its heatmap and its map."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from unicodedata import normalize

from lit_ad.batch import Sample
from lit_ad.image.pixels import split_page

_LONGEST = 240  # bytes of a name without suffix; file systems allow 255 with it


def picture_names(samples: Sequence[Sample]) -> dict[str, str]:
    """Return a name without suffix for the files of each image, by the image's path.

    No two images share a name. All processes get the same names, because each passes all samples of a split.

    The name of a labelled image is CATEGORY/FOLDER/NAME; its folder is named after the defect type, "good", or a class.
    The name of an image to predict has all folders below the given one. If two images of a category would share a name,
    all names of the category get as many folders as are needed to tell them apart, or the file's suffix. Some file
    systems ignore case and Unicode's normal form: of images whose names differ only in these, all but one get a number.

    Args:
        samples: All samples of a split.
    """
    categories: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        below = sample.category if sample.label >= 0 else Path(sample.category, sample.defect).as_posix()
        categories[below].append(sample)
    names: dict[str, str] = {}
    for category, members in categories.items():
        paths = [sample.image for sample in members]
        folders = [path.relative_to(path.anchor).parent.parts for path in paths]
        least = int(any(sample.label >= 0 for sample in members))
        depths = range(least, max(least, *map(len, folders)) + 1)
        most = len({fold(str(path)) for path in paths})
        for with_suffix, depth in ((with_suffix, depth) for with_suffix in (False, True) for depth in depths):
            stems = [
                Path(category, *parts[max(0, len(parts) - depth) :], _short_stem(path, with_suffix)).as_posix()
                for path, parts in zip(paths, folders, strict=True)
            ]
            if len({fold(name) for name in stems}) == most:
                break
        names |= dict(zip(map(str, paths), _number_repeated(stems), strict=True))
    return names


def fold(name: str) -> str:
    """Return a name without differences of case and of Unicode's normal form, which some file systems ignore."""
    return normalize("NFC", normalize("NFC", name).casefold())


def _number_repeated(names: Sequence[str]) -> list[str]:
    """Return the names, with a number after each name that an earlier one has taken."""
    taken, free = {fold(name) for name in names}, []
    seen: set[str] = set()
    for name in names:
        if fold(name) in seen:
            name = next(other for n in count(2) if fold(other := f"{name}~{n}") not in taken)
            taken.add(fold(name))
        seen.add(fold(name))
        free.append(name)
    return free


def _short_stem(path: Path, with_suffix: bool) -> str:
    """Return an image's file name, with or without its suffix; the name of a page has the page's number.

    The end of a name longer than _LONGEST is replaced by a hash, so that a suffix can be added.
    """
    file, page = split_page(path)
    name = path.name if with_suffix else file.stem if page is None else f"{file.stem}#{page}"
    coded = os.fsencode(name)
    if len(coded) <= _LONGEST:
        return name
    return f"{coded[: _LONGEST - 20].decode(errors='ignore')}~{hashlib.sha256(coded).hexdigest()[:12]}"
