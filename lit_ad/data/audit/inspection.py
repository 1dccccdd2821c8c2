"""What there is to train and test on, told in a few lines before training, and what looks wrong with it."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from lit_ad.batch import Sample
from lit_ad.counts import first_few, format_count, format_times
from lit_ad.data.audit.duplicates import duplicate_warnings, find_duplicates
from lit_ad.data.audit.measurements import Header, MaskExtent, max_value, measure_mask, read_header, verify_file
from lit_ad.data.audit.report import AuditReport, describe_splits, unfit, unreadable
from lit_ad.data.sources.listing import Listing, frame_remarks, list_folder
from lit_ad.data.sources.pages import files_of
from lit_ad.data.sources.photographs import Unrelated
from lit_ad.data.sources.shapes import kept_masks
from lit_ad.data.sources.source import Source, holds_images
from lit_ad.data.splits import Splits
from lit_ad.errors import UserError, ViewMismatch
from lit_ad.image.pixels import reason_of, split_page
from lit_ad.image.view import View
from lit_ad.machine import cores
from lit_ad.names import tell
from lit_ad.threads import Pool

DECODED_PIXELS = 2e9  # of test images: 20 to 40 seconds of one core; all of MVTec AD's are 1.4e9
PIXELS_AT_ONCE = 2**28  # decoded together, by all threads
_DEEP_IMAGES = 20  # training images of 16 bits that are decoded, to see how many of the bits they use
T = TypeVar("T")


def inspect_samples(
    splits: Splits, threads: int = 1, decode: bool = True, progress: bool = False, view: View = View()
) -> AuditReport:
    """Look at the files of each split: train, val (held out of training) and test.

    Of all images the header is read. Test images are decoded too, since a damaged one would otherwise be found hours
    later; training images are not, since the first epoch reads them all. Where the test images are very many, a part of
    them is decoded, evenly spread, and of the others the checksums are verified, which PNG has and JPEG has not.

    Args:
        splits: The samples.
        threads: That read.
        decode: Test images. They need not be, where the test comes next.
        progress: Whether to show a bar, where it takes longer than two seconds.
        view: What will be seen of the images: in which window they are read, and whether its region of interest fits.
    """
    train, test = [*splits.train, *splits.val], splits.test
    images = [sample.image for sample in (*train, *test)]
    masks = {sample.mask: sample.mask_above for sample in test if sample.mask is not None}
    errors: dict[Path, UserError] = {}

    def read_all(
        function: Callable[[Path], T], paths: Sequence[Path], title: str, at_once: int = threads
    ) -> dict[Path, T]:
        """What a function reads from each file; the files that cannot be read are noted among the errors."""
        values = {}
        with Pool(at_once) as pool:
            results = pool.map(partial(_or_error, function), paths)
            bar = tqdm(results, title, len(paths), leave=False, delay=2, disable=not progress)
            for path, value in zip(paths, bar, strict=True):
                if isinstance(value, UserError):
                    errors[path] = value
                else:
                    values[path] = value
        return values

    headers = read_all(partial(read_header, view=view), images, "Reading headers")
    to_decode, to_verify = split_by_budget([s.image for s in test if s.image in headers] if decode else [], headers)
    deep = [s.image for s in train if s.image in headers and headers[s.image].deep]
    decoded = len(to_decode)
    to_decode += deep[:: max(1, len(deep) // _DEEP_IMAGES)]
    largest = max((headers[path].pixels for path in to_decode), default=0)
    few = max(1, min(threads, PIXELS_AT_ONCE // max(1, largest)))
    brightest = read_all(partial(max_value, view=view), to_decode, "Reading test images", few)
    read_all(verify_file, to_verify, "Verifying test images")
    extents = read_all(lambda path: measure_mask(path, view, masks[path]), list(masks), "Reading masks", few)
    duplicates = find_duplicates(files_of(sample for sample in (*train, *test) if sample.image not in errors), threads)
    around = _list_around((*train, *test))
    warnings = [
        *duplicate_warnings(duplicates, train, test),
        *_mask_warnings(test, extents),
        *_depth_warnings({path: value for path, value in brightest.items() if headers[path].deep}, view),
        *_broken_links(around.broken),
        *Listing(other=around.other).remarks(),
        *frame_remarks([*images, *masks]),
    ]
    text = describe_splits(splits, headers)
    if pages := [sample for sample in (*train, *test) if split_page(sample.image)[1] is not None]:
        text += f"\n  pages among these images: {len(pages)}, of {format_count(len(files_of(pages)), 'file')}"
    for remark in Listing(hidden=around.hidden).remarks():
        text += f"\n  {remark}"
    if to_verify:
        text += f"\n  {decoded} of {decoded + len(to_verify)} test images decoded, the others verified"
    reasons = {path: reason_of(error.__cause__ or error) for path, error in errors.items()}
    sound = {path for path, error in errors.items() if isinstance(error, ViewMismatch)}
    faults = unreadable({path: reason for path, reason in reasons.items() if path not in sound})
    faults += unfit({path: reason for path, reason in reasons.items() if path in sound})
    return AuditReport(text, warnings, faults, duplicates)


def _or_error(function: Callable[[Path], T], path: Path) -> T | UserError:
    """What a function reads from a file, or why it cannot be read."""
    try:
        return function(path)
    except UserError as error:
        return error


def split_by_budget(paths: Sequence[Path], headers: Mapping[Path, Header]) -> tuple[list[Path], list[Path]]:
    """The images to decode, evenly spread and no more than DECODED_PIXELS, and the others."""
    pixels = sum(headers[path].pixels for path in paths)
    step = max(1, int(np.ceil(pixels / DECODED_PIXELS)))
    return list(paths[::step]), [path for i, path in enumerate(paths) if i % step]


def _mask_warnings(test: Sequence[Sample], extents: Mapping[Path, MaskExtent]) -> list[str]:
    """Sentences about masks that mark nothing, all, or what they should leave out."""
    faults: dict[str, list[Path]] = defaultdict(list)
    for sample in test:
        if sample.mask is None or sample.mask not in extents:
            continue
        extent = extents[sample.mask]
        if sample.label == 0:
            if extent.part > 0:
                faults["for good images, with defects in them: they are ignored"].append(sample.mask)
        elif extent.part == 0:
            faults["empty: they mark no defect in an anomalous image"].append(sample.mask)
        elif not extent.inside:
            faults["with no defect inside view.roi, where these images are all good"].append(sample.mask)
        elif extent.part == 1:
            faults["full: they mark the whole image"].append(sample.mask)
        elif extent.part > 0.5 and extent.border > 0.9:
            faults["perhaps inverted: they mark most of the image and its border"].append(sample.mask)
    return [f"masks {fault}, {format_times(len(paths))}: {first_few(paths)}" for fault, paths in faults.items()]


def _depth_warnings(brightest: Mapping[Path, int], view: View) -> list[str]:
    """A sentence about images of 16 bits that use 14 or fewer, given the greatest value (0 to 255) of each."""
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


def _list_around(samples: Sequence[Sample]) -> Listing:
    """What is passed over in the folders of images and masks: all of it; and in the folders that these lie in, broken
    links and hidden folders of images."""
    files = {split_page(sample.image)[0] for sample in samples} | {s.mask for s in samples if s.mask is not None}
    drawn = {s.image for s in samples if s.mask is not None and s.mask.parent == kept_masks()}
    files |= {split_page(image)[0].with_suffix(".json") for image in drawn}  # of labelme
    folders = {file.parent for file in files}
    passed_over = Listing()
    for folder in sorted(folders | {folder.parent for folder in folders}):
        with suppress(UserError):  # a folder that may be entered but not listed: its images are known by other means
            listing = list_folder(folder)
            passed_over.broken += listing.broken
            if folder in folders:
                passed_over.hidden += listing.hidden
                passed_over.other += [path for path in listing.other if path not in files]
            else:
                passed_over.hidden += [path for path in listing.hidden if holds_images(path)]
    return passed_over


def _broken_links(paths: Sequence[Path]) -> list[str]:
    """One sentence about links that lead nowhere, if there are any."""
    return [f"broken links, {format_times(len(paths))}: {first_few(paths)}; they are left out"] if paths else []


def tell_what_there_is(
    splits: Splits, source: Source, view: View, unrelated: Unrelated | None = None, decode: bool = True
) -> list[str]:
    """Print what a run has to train and test on, and warnings.

    Args:
        splits: The samples.
        source: They come from it; it may have remarks.
        view: What will be seen of the images.
        unrelated: Photographs that training takes as well.
        decode: Test images, as for `inspect_samples`.

    Returns:
        Errors, each a sentence: with one of them there is no use in a run.
    """
    report = inspect_samples(splits, cores(), decode, progress=True, view=view)
    report.add_source_remarks(source)
    if any(sample.split == "validation" for sample in splits.val):
        report.text += "\n  held out are the validation images of the data set, so data.split.val_fraction is not used"
    undecided = {sample.category for sample in splits.train} - {sample.category for sample in splits.val}
    if splits.val and undecided:
        report.text += (
            f"\n  no image of {', '.join(sorted(undecided))} is held out: the threshold is that of all together"
        )
    if decode and unrelated is not None:
        report.text += "".join(f"\n  in data.unrelated, {remark}" for remark in unrelated.remarks)
    tell(str(report))
    return report.errors
