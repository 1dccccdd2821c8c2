"""Audit a data set: run every check on it."""

from lit_ad.batch import Sample
from lit_ad.data.audit.inspection import inspect_samples
from lit_ad.data.audit.near_duplicates import (
    drop_equal_files,
    find_near_duplicates,
    fingerprint_images,
    list_near_duplicate_warnings,
)
from lit_ad.data.audit.outliers import list_outlier_warnings
from lit_ad.data.audit.report import AuditReport
from lit_ad.data.audit.sample_checks import list_mask_value_warnings, list_sample_errors
from lit_ad.data.masks import list_mask_files
from lit_ad.data.sources.listing import os_errors_as_user_errors
from lit_ad.data.sources.pages import split_pages
from lit_ad.data.sources.source import Source, check_root
from lit_ad.data.splits import Split, Splits, hold_out
from lit_ad.errors import UserError


def audit_source(
    source: Source,
    threads: int = 1,
    backbone: str | None = None,
    weights: str = "hub",
    progress: bool = False,
    split: Split = Split(),
) -> tuple[list[Sample], AuditReport]:
    """Return the samples of a source, and a report with a summary, warnings and errors.

    Args:
        source: The data set.
        threads: Number of threads that read files.
        backbone: A timm model whose features find training images that are unlike the others. None: no such check.
        weights: Source of the backbone's weights: hub, or a file.
        progress: Show progress bars on a terminal.
        split: How a training would hold out images: its val_fraction and seed.

    Raises:
        UserError: The source's folder does not exist, or the source lists no samples.

    Example:
        >>> samples, report = audit_source(MVTec(Path("mvtec/bottle")), threads=4)
        >>> print(report)
    """
    source.prepare()
    check_root(source, getattr(source, "root", None))
    with os_errors_as_user_errors():
        samples = split_pages(source.samples())
    train = [sample for sample in samples if sample.split == "train"]
    kept, held_out, refusals = train, [sample for sample in samples if sample.split == "validation"], list[str]()
    try:
        kept, held_out = hold_out(samples, split.val_fraction, split.seed)
    except UserError as error:  # no image to train on, or too few of a category
        refusals.append(str(error))
    test = [sample for sample in samples if sample.split == "test"]
    report = inspect_samples(Splits(kept, held_out, test), threads, progress=progress)
    report.add_source_remarks(source)
    report.errors += [*refusals, *list_sample_errors(samples)]
    known = {frozenset((a, b)) for group in report.duplicates for a in group for b in group if a != b}
    fingerprints = fingerprint_images(samples, threads)
    pairs = drop_equal_files(find_near_duplicates(fingerprints), known)
    report.near_duplicates = [(first.image, second.image) for first, second in pairs]
    report.warnings += list_near_duplicate_warnings(fingerprints, pairs)
    report.warnings += list_mask_value_warnings(
        [f for s in samples if s.mask_above is None for f in list_mask_files(s.mask)]
    )
    if backbone is not None:
        report.warnings += list_outlier_warnings(train, backbone, weights)
    return samples, report
