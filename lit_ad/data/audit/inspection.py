"""What there is to train and test on, told in a few lines before training, and what looks wrong with it."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from lit_ad.batch import Sample
from lit_ad.data.masks import read_mask
from lit_ad.data.sources.pages import files_of
from lit_ad.data.sources.source import Source, is_image
from lit_ad.errors import UserError
from lit_ad.image.pixels import Size, deep_values, open_image, opened, read_file, read_image, split_page, upright_size
from lit_ad.image.roi import counted
from lit_ad.image.view import View

DECODED_PIXELS = 2e9  # of test images: 20 to 40 seconds of one core; all of MVTec AD's are 1.4e9
PIXELS_AT_ONCE = 2**28  # decoded together, by all threads
DEEP_IMAGES = 20  # training images of 16 bits that are decoded, to see how many of the bits they use
NAMED = 3  # files that a message names
LITTER = ("Thumbs.db", "desktop.ini")  # Windows leaves them in folders
T = TypeVar("T")


@dataclass
class Report:
    """What is said before training."""

    text: str  # a line for each category
    warnings: list[str]  # each a sentence
    errors: list[str]  # likewise: with them there is no use in training
    equal: list[list[Path]]  # groups of files with the same bytes, of those that can be read

    def __str__(self) -> str:
        return "\n".join([self.text, *(f"  Warning: {warning}" for warning in self.warnings)])


class Head(NamedTuple):
    """What an image file's header says."""

    size: Size
    kind: str


class Marked(NamedTuple):
    """How much of a mask is anomalous: of all of it, and of its border."""

    part: float
    border: float
    inside: bool  # whether any of it lies in the view's region of interest


def inspect_samples(
    splits: Mapping[str, Sequence[Sample]],
    threads: int = 1,
    decode: bool = True,
    progress: bool = False,
    view: View = View(),
) -> Report:
    """Look at the files of each split: train, val (held out of training) and test.

    Of all images the header is read. Test images are decoded too, since a damaged one would otherwise be found hours
    later; training images are not, since the first epoch reads them all. Where the test images are very many, a part of
    them is decoded, evenly spread, and of the others the checksums are verified, which PNG has and JPEG has not.

    Args:
        splits: The samples of each.
        threads: That read.
        decode: Test images. They need not be, where the test comes next.
        progress: Whether to show a bar, where it takes longer than two seconds.
        view: What will be seen of the images: in which window they are read, and whether its region of interest fits.
    """
    train, test = [*splits["train"], *splits["val"]], splits["test"]
    images = [sample.image for sample in (*train, *test)]
    masks = {sample.mask: sample.mask_above for sample in test if sample.mask is not None}
    errors: dict[Path, str] = {}

    def each(function: Callable[[Path], T], paths: Sequence[Path], title: str, at_once: int = threads) -> dict[Path, T]:
        """What a function says of each file, without those that cannot be read."""
        found = {}
        with ThreadPoolExecutor(at_once) as pool:
            said = pool.map(partial(or_error, function), paths)
            bar = tqdm(said, title, len(paths), leave=False, delay=2, disable=not progress)
            for path, value in zip(paths, bar, strict=True):
                if isinstance(value, UserError):
                    errors[path] = str(value.__cause__ or value)
                else:
                    found[path] = value
        return found

    heads = each(partial(head, view=view), images, "Reading headers")
    to_decode, to_verify = share([s.image for s in test if s.image in heads] if decode else [], heads)
    deep = [s.image for s in train if s.image in heads and heads[s.image].kind.startswith("16")]
    decoded = len(to_decode)
    to_decode += deep[:: max(1, len(deep) // DEEP_IMAGES)]
    largest = max((heads[path].size[0] * heads[path].size[1] for path in to_decode), default=0)
    few = max(1, min(threads, PIXELS_AT_ONCE // max(1, largest)))
    brightest = each(partial(look, view=view), to_decode, "Reading test images", few)
    each(verify, to_verify, "Verifying test images")
    marked = each(lambda path: mark(path, view, masks[path]), list(masks), "Reading masks", few)
    equal = copies(files_of(sample for sample in (*train, *test) if sample.image not in errors), threads)
    warnings = [
        *copy_warnings(equal, train, test),
        *mask_warnings(test, marked),
        *depth_warnings({path: value for path, value in brightest.items() if heads[path].kind.startswith("16")}, view),
        *folder_warnings({path.parent for path in (*images, *masks)}),
    ]
    text = describe(splits, heads)
    if pages := [sample for sample in (*train, *test) if split_page(sample.image)[1] is not None]:
        text += f"\n  {len(pages)} of these images are the pages of {len(files_of(pages))} files"
    if to_verify:
        text += f"\n  {decoded} of {decoded + len(to_verify)} test images were decoded, the others verified"
    return Report(text, warnings, unreadable(errors), equal)


def told(report: Report, source: Source) -> None:
    """Add to a report what a source has to say."""
    try:
        report.warnings += source.remarks()
    except UserError as error:
        report.errors.append(str(error))


# One file.


def or_error(function: Callable[[Path], T], path: Path) -> T | UserError:
    """What a function says of a file, or why it cannot be read."""
    try:
        return function(path)
    except UserError as error:
        return error


def head(path: Path, view: View) -> Head:
    """What the header of an image says. Raises UserError if the view's region of interest does not lie in it."""
    size = upright_size(path)
    if view.region is not None:
        view.region.check(size)

    def read() -> Head:
        with opened(path) as image:
            return Head(size, kind(image))

    return read_file(read, path)


def kind(image: Image.Image) -> str:
    """Bit depth and colours of an opened image."""
    # Pillow reads RGB of 16 bits as RGB of 8; how it is going to do so tells them apart.
    deep = image.mode.startswith("I;16") or ";16" in str(getattr(image, "tile", ""))
    bits = 16 if deep else {"1": 1, "I": 32, "F": 32}.get(image.mode, 8)
    colours = "grey" if image.mode[0] in "1LIF" else {"P": "palette", "RGBA": "RGB with alpha"}.get(image.mode)
    return f"{bits}-bit {colours or image.mode}"


def look(path: Path, view: View) -> int:
    """The greatest value of an image, read as the test will read it."""
    if view.window == "auto":  # which is not known yet
        return 255 if deep_values(open_image(path), str(path)).max() else 0
    return int(read_image(path, view.levels).max(initial=0))


def verify(path: Path) -> None:
    """Raises UserError on a damaged file, as far as its checksums tell without decoding."""

    def read() -> None:
        with opened(path) as image:
            image.verify()

    read_file(read, path)


def mark(path: Path, view: View, above: int | None = None) -> Marked:
    """How much of a mask is anomalous; `above` as `read_mask` has it."""
    mask = read_mask(path, above)
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return Marked(float(mask.mean()), float(border.mean()), bool(counted(mask, view.region).any()))


# Many files.


def share(paths: Sequence[Path], heads: Mapping[Path, Head]) -> tuple[list[Path], list[Path]]:
    """Those to decode, evenly spread and no more than DECODED_PIXELS, and the others."""
    pixels = sum(heads[path].size[0] * heads[path].size[1] for path in paths)
    step = max(1, int(np.ceil(pixels / DECODED_PIXELS)))
    return list(paths[::step]), [path for i, path in enumerate(paths) if i % step]


def copies(paths: Sequence[Path], threads: int) -> list[list[Path]]:
    """Groups of files with the same bytes; links are what they lead to.

    Only files of one size are opened, and read whole only where a piece from their middle is the same.
    """
    groups: dict[Any, list[Path]] = {"": list(paths)}
    with ThreadPoolExecutor(threads) as pool:
        for key in (length, middle, digest):
            left = [(name, path) for name, group in groups.items() if len(group) > 1 for path in group]
            found = pool.map(key, [path for _, path in left])
            groups = defaultdict(list)
            for (name, path), value in zip(left, found, strict=True):
                groups[name, value].append(path)
    return [group for group in groups.values() if len(group) > 1]


def length(path: Path) -> int:
    """Bytes in a file."""
    return path.stat().st_size


def middle(path: Path) -> bytes:
    """4 KiB from the middle of a file, as a hash."""
    with path.open("rb") as file:
        file.seek(max(0, length(path) // 2 - 2048))
        return hashlib.blake2b(file.read(4096), digest_size=16).digest()


def digest(path: Path) -> bytes:
    """A hash of all of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


# What is said.


def describe(splits: Mapping[str, Sequence[Sample]], heads: Mapping[Path, Head]) -> str:
    """A line for each category: its images by split and defect, those with masks, their sizes and depths."""
    categories = dict.fromkeys(sample.category for split in splits.values() for sample in split)
    lines = []
    for name in categories:
        of = {split: [s for s in samples if s.category == name] for split, samples in splits.items()}
        seen = [heads[s.image] for samples in of.values() for s in samples if s.image in heads]
        kinds = Counter(found.kind for found in seen)
        lines.append(
            f"{name or 'images'}: {len(of['train'])} to train on, {len(of['val'])} held out; "
            f"test: {tested(of['test'])}; {sizes([found.size for found in seen])}, "
            + ", ".join(f"{kind} ({count})" if len(kinds) > 1 else kind for kind, count in kinds.most_common())
        )
    return "\n".join(lines)


def tested(samples: Sequence[Sample]) -> str:
    """The test images by defect, and how many of the anomalous ones have masks."""
    if not samples:
        return "none"
    anomalous = [sample for sample in samples if sample.label]
    good = len(samples) - len(anomalous)
    masked = Counter(sample.defect for sample in anomalous if sample.mask is not None)
    some = 0 < masked.total() < len(anomalous)
    parts = [f"{good} good"] if good else []
    for defect, count in sorted(Counter(sample.defect for sample in anomalous).items()):
        parts.append(f"{count} {defect}" + (f" ({masked[defect]} with masks)" if some else ""))
    if anomalous and not some:
        parts.append("each with a mask" if masked else "no masks")
    return ", ".join(parts)


def sizes(found: Sequence[Size]) -> str:
    """Height x width of images: each, if they are few, or from the smallest to the largest area."""
    counted = Counter(found)
    if len(counted) > 3:
        by_area = sorted(counted, key=lambda size: size[0] * size[1])
        return f"{by_area[0][0]}x{by_area[0][1]} to {by_area[-1][0]}x{by_area[-1][1]} ({len(counted)} sizes)"
    ordered = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{h}x{w}" + (f" ({count})" if len(ordered) > 1 else "") for (h, w), count in ordered)


def copy_warnings(equal: Sequence[Sequence[Path]], train: Sequence[Sample], test: Sequence[Sample]) -> list[str]:
    """Of files with the same bytes."""
    trained = set(files_of(train))
    anomalous = set(files_of(sample for sample in test if sample.label))
    shared, contrary, repeated, alike = [], [], [], False
    for group in equal:
        inside, outside = [p for p in group if p in trained], [p for p in group if p not in trained]
        alike = alike or len(inside) == len(train)
        if len(inside) > 1:
            repeated.append(f"{inside[0]} and {inside[1]}")
        if inside and outside:
            shared.append(f"{inside[0]} and {outside[0]}")
        bad = [p for p in outside if p in anomalous]
        if bad and len(bad) < len(outside):
            contrary.append(f"{next(p for p in outside if p not in anomalous)} and {bad[0]}")
    said = []
    if shared:
        said.append(f"the same file in training and test, {times(shared)}: {some(shared)}; metrics will flatter")
    if contrary:
        said.append(
            f"the same file as a good and as an anomalous image of the test, {times(contrary)}: {some(contrary)}"
        )
    if alike:
        said.append(f"all {len(train)} training images are equal: nothing can be learned of how good images differ")
    elif repeated:
        said.append(
            f"training images are copies of each other, {times(repeated)}: {some(repeated)}; a copy that is held out "
            "makes the threshold too low"
        )
    return said


def mask_warnings(test: Sequence[Sample], marked: Mapping[Path, Marked]) -> list[str]:
    """Of masks that mark nothing, all, or what they should leave out."""
    found: dict[str, list[Path]] = defaultdict(list)
    for sample in test:
        if sample.mask is None or sample.mask not in marked:
            continue
        mask = marked[sample.mask]
        if sample.label == 0:
            if mask.part > 0:
                found["for good images, with defects in them: they are ignored"].append(sample.mask)
        elif mask.part == 0:
            found["empty: they mark no defect in an anomalous image"].append(sample.mask)
        elif not mask.inside:
            found["with no defect inside view.roi, where these images are all good"].append(sample.mask)
        elif mask.part == 1:
            found["full: they mark the whole image"].append(sample.mask)
        elif mask.part > 0.5 and mask.border > 0.9:
            found["perhaps inverted: they mark most of the image and its border"].append(sample.mask)
    return [f"masks {what}, {times(paths)}: {some(paths)}" for what, paths in found.items()]


def depth_warnings(brightest: Mapping[Path, int], view: View) -> list[str]:
    """Of images of 16 bits (path -> their greatest value, as 8 bits) that use 14 or fewer."""
    if not brightest or view.window is not None:
        return []
    top = max(brightest.values())
    for bits in (10, 12, 14):
        if top <= round((2**bits - 1) / 257):
            return [
                f"16-bit images that use {bits} bits at most, such as {next(iter(brightest))}: 65535 is read as white, "
                f"so they are nearly black; set model.view.window to auto, or to [0, {2**bits - 1}]"
            ]
    return []


def folder_warnings(folders: Iterable[Path]) -> list[str]:
    """Of what lies in the folders of images, or beside these folders, and is passed over."""
    broken, other = [], []
    folders = set(folders)
    for folder in sorted(folders | {folder.parent for folder in folders}):
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:  # one that may be passed through but not listed; its images are known by other means
            continue
        for entry in entries:
            path = Path(entry.path)
            if path.name.startswith("."):
                continue
            if entry.is_symlink() and not path.exists():
                broken += [path] if is_image(path) or not path.suffix else []
            elif folder in folders and entry.is_file() and not is_image(path) and path.name not in LITTER:
                other.append(path)
    said = [f"broken links, {times(broken)}: {some(broken)}; they are left out"] if broken else []
    if other:
        said.append(f"files of kinds that are not read, {times(other)}: {some(other)}")
    return said


def unreadable(errors: Mapping[Path, str]) -> list[str]:
    """One sentence about files that cannot be read, if there are any."""
    if not errors:
        return []
    path, reason = next(iter(errors.items()))
    if len(errors) == 1:
        return [f"cannot read {path}: {reason}; replace or remove it"]
    return [f"cannot read {len(errors)} files: {some(list(errors))}; replace or remove them (the first: {reason})"]


def some(items: Sequence[object]) -> str:
    """The first few, and how many more there are."""
    rest = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return ", ".join(str(item) for item in items[:NAMED]) + rest


def times(items: Sequence[object]) -> str:
    return "once" if len(items) == 1 else f"{len(items)} times"
