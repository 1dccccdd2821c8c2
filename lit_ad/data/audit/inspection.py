"""Summarise the images of a run in a few lines before training, and find what looks wrong with them."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from lit_ad.batch import Sample
from lit_ad.counts import first_few, format_count, format_times
from lit_ad.data.audit.duplicates import find_duplicates, list_duplicate_warnings
from lit_ad.data.audit.measurements import Header, MaskExtent, measure_mask, read_header, read_max_value, verify_file
from lit_ad.data.audit.report import AuditReport, describe_splits, describe_unfit, describe_unreadable
from lit_ad.data.sources.listing import Listing, list_folder, list_frame_remarks
from lit_ad.data.sources.pages import list_files
from lit_ad.data.sources.photographs import Unrelated
from lit_ad.data.sources.shapes import find_mask_directory
from lit_ad.data.sources.source import Source, holds_images
from lit_ad.data.splits import Splits
from lit_ad.errors import UserError, ViewMismatch
from lit_ad.image.pixels import find_reason, split_page
from lit_ad.image.view import View
from lit_ad.machine import cores
from lit_ad.names import tell
from lit_ad.threads import Pool

DECODED_PIXELS = 2e9  # most pixels of test images to decode: 20 to 40 seconds on one core; MVTec AD has 1.4e9
PIXELS_AT_ONCE = 2**28  # most pixels that all threads decode at the same time
_DEEP_IMAGES = 20  # number of 16-bit training images that are decoded, to see how many bits they use
T = TypeVar("T")


def inspect_samples(
    splits: Splits, threads: int = 1, decode: bool = True, progress: bool = False, view: View = View()
) -> AuditReport:
    """Read the files of all splits, and return a report.

    The header of each image is read. Test images are also decoded, because a damaged one would otherwise be found hours
    later. Training images are not, because the first epoch reads them all. If there are very many test images, evenly
    spaced ones are decoded; of the others, the checksums are verified, which PNG has but JPEG has not.

    Args:
        splits: The samples: train, val (held out of training) and test.
        threads: Number of threads that read files.
        decode: Decode test images. It is not needed if the test follows at once.
        progress: Show a progress bar on a terminal if the inspection takes longer than two seconds.
        view: How images become network inputs: its window is used for reading, and its region of interest must fit.
    """
    train, test = [*splits.train, *splits.val], splits.test
    images = [sample.image for sample in (*train, *test)]
    masks = {sample.mask: sample.mask_above for sample in test if sample.mask is not None}
    errors: dict[Path, UserError] = {}

    def read_all(
        function: Callable[[Path], T], paths: Sequence[Path], title: str, at_once: int = threads
    ) -> dict[Path, T]:
        """Return what a function reads from each file. Errors of files that cannot be read go to `errors`."""
        values = {}
        with Pool(at_once) as pool:
            results = pool.map(partial(_catch_error, function), paths)
            bar = tqdm(results, title, len(paths), leave=False, delay=2, disable=None if progress else True)
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
    brightest = read_all(partial(read_max_value, view=view), to_decode, "Reading test images", few)
    read_all(verify_file, to_verify, "Verifying test images")
    extents = read_all(lambda path: measure_mask(path, view, masks[path]), list(masks), "Reading masks", few)
    duplicates = find_duplicates(
        list_files(sample for sample in (*train, *test) if sample.image not in errors), threads
    )
    around = _list_around((*train, *test))
    warnings = [
        *list_duplicate_warnings(duplicates, train, test),
        *_list_mask_warnings(test, extents),
        *_list_depth_warnings({path: value for path, value in brightest.items() if headers[path].deep}, view),
        *_list_broken_link_warnings(around.broken),
        *Listing(other=around.other).remarks(),
        *list_frame_remarks([*images, *masks]),
    ]
    text = describe_splits(splits, headers)
    if pages := [sample for sample in (*train, *test) if split_page(sample.image)[1] is not None]:
        text += f"\n  pages among these images: {len(pages)}, of {format_count(len(list_files(pages)), 'file')}"
    for remark in Listing(hidden=around.hidden).remarks():
        text += f"\n  {remark}"
    if to_verify:
        text += f"\n  {decoded} of {decoded + len(to_verify)} test images decoded, the others verified"
    reasons = {path: find_reason(error.__cause__ or error) for path, error in errors.items()}
    readable = {path for path, error in errors.items() if isinstance(error, ViewMismatch)}
    faults = describe_unreadable({path: reason for path, reason in reasons.items() if path not in readable})
    faults += describe_unfit({path: reason for path, reason in reasons.items() if path in readable})
    return AuditReport(text, warnings, faults, duplicates)


def _catch_error(function: Callable[[Path], T], path: Path) -> T | UserError:
    """Return what a function reads from a file, or its UserError."""
    try:
        return function(path)
    except UserError as error:
        return error


def split_by_budget(paths: Sequence[Path], headers: Mapping[Path, Header]) -> tuple[list[Path], list[Path]]:
    """Return the images to decode, evenly spaced and with at most about DECODED_PIXELS, and the other images."""
    pixels = sum(headers[path].pixels for path in paths)
    step = max(1, int(np.ceil(pixels / DECODED_PIXELS)))
    return list(paths[::step]), [path for i, path in enumerate(paths) if i % step]


def _list_mask_warnings(test: Sequence[Sample], extents: Mapping[Path, MaskExtent]) -> list[str]:
    """Return sentences about masks that mark nothing, everything, or a good image."""
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


def _list_depth_warnings(brightest: Mapping[Path, int], view: View) -> list[str]:
    """Return a sentence if 16-bit images use at most 14 bits. `brightest`: the greatest value (0 to 255) of each."""
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
    """Return the files that are skipped in the folders of images and masks; and, from the folders above these, broken
    links and hidden folders of images."""
    files = {split_page(sample.image)[0] for sample in samples} | {s.mask for s in samples if s.mask is not None}
    drawn = {s.image for s in samples if s.mask is not None and s.mask.parent == find_mask_directory()}
    files |= {split_page(image)[0].with_suffix(".json") for image in drawn}  # labelme's files
    folders = {file.parent for file in files}
    skipped = Listing()
    for folder in sorted(folders | {folder.parent for folder in folders}):
        with suppress(UserError):  # a folder may be readable but not listable: its images come from a table
            listing = list_folder(folder)
            skipped.broken += listing.broken
            if folder in folders:
                skipped.hidden += listing.hidden
                skipped.other += [path for path in listing.other if path not in files]
            else:
                skipped.hidden += [path for path in listing.hidden if holds_images(path)]
    return skipped


def _list_broken_link_warnings(paths: Sequence[Path]) -> list[str]:
    """Return a sentence about links that lead nowhere, if there are any."""
    return [f"broken links, {format_times(len(paths))}: {first_few(paths)}; they are left out"] if paths else []


def print_summary(
    splits: Splits, source: Source, view: View, unrelated: Unrelated | None = None, decode: bool = True
) -> list[str]:
    """Print a summary of the images of a run, and warnings.

    Args:
        splits: The samples.
        source: The source that lists them; its remarks are printed, too.
        view: How images become network inputs.
        unrelated: Unrelated photographs for the training. None: there are none.
        decode: Decode test images, as for `inspect_samples`.

    Returns:
        Errors, each a sentence. With an error, a run is useless.
    """
    report = inspect_samples(splits, cores(), decode, progress=True, view=view)
    report.add_source_remarks(source)
    if any(sample.split == "validation" for sample in splits.val):
        report.text += "\n  held out are the validation images of the data set, so data.split.val_fraction is not used"
    single = Counter(category for category, _ in {(s.category, s.item or s.image) for s in splits.train})
    # A category of two items or more has a threshold of its own, but perhaps by another one of decision.folds.
    undecided = {name for name, items in single.items() if items == 1} - {sample.category for sample in splits.val}
    if splits.val and undecided:
        report.text += (
            f"\n  no image of {', '.join(sorted(undecided))} is held out: its threshold comes from all categories"
        )
    if decode and unrelated is not None:
        report.text += "".join(f"\n  in data.unrelated, {remark}" for remark in unrelated.remarks)
    tell(str(report))
    return report.errors
