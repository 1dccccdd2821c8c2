"""What the heatmap and the map of an image are called."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from unicodedata import normalize

from lit_ad.batch import Sample
from lit_ad.image.pixels import split_page

_LONGEST = 240  # bytes of a name without suffix, where file systems allow 255 with it


def picture_names(samples: Sequence[Sample]) -> dict[str, str]:
    """What the picture of each image is called, without suffix, by the image's path. Given all samples of a split, all
    processes find the same names, and no two images share one.

    A labelled image's is CATEGORY/FOLDER/NAME, where its folder is named after the defect type, "good", or a class; an
    image to predict has all of its folders below the one given. Where two images of a category would share a name,
    those of all its images have as many folders as it takes to tell them apart, or the file's suffix. Names that differ
    by case or by Unicode's normal form are one name on some file systems: of such images, all but one have a number.
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
        most = len({folded(str(path)) for path in paths})
        for with_suffix, depth in ((with_suffix, depth) for with_suffix in (False, True) for depth in depths):
            stems = [
                Path(category, *parts[max(0, len(parts) - depth) :], _short_stem(path, with_suffix)).as_posix()
                for path, parts in zip(paths, folders, strict=True)
            ]
            if len({folded(name) for name in stems}) == most:
                break
        names |= dict(zip(map(str, paths), numbered(stems), strict=True))
    return names


def folded(name: str) -> str:
    """What a name is to a file system that tells neither cases nor normal forms apart."""
    return normalize("NFC", normalize("NFC", name).casefold())


def numbered(names: Sequence[str]) -> list[str]:
    """The names, those that are taken already with a number behind them."""
    taken, free = {folded(name) for name in names}, []
    seen: set[str] = set()
    for name in names:
        if folded(name) in seen:
            name = next(other for n in count(2) if folded(other := f"{name}~{n}") not in taken)
            taken.add(folded(name))
        seen.add(folded(name))
        free.append(name)
    return free


def _short_stem(path: Path, with_suffix: bool) -> str:
    """An image's name, `with_suffix` or without; of a page, with its number. A hash stands for the end of a long one,
    to which no suffix could be added."""
    file, page = split_page(path)
    name = path.name if with_suffix else file.stem if page is None else f"{file.stem}#{page}"
    coded = os.fsencode(name)
    if len(coded) <= _LONGEST:
        return name
    return f"{coded[: _LONGEST - 20].decode(errors='ignore')}~{hashlib.sha256(coded).hexdigest()[:12]}"
