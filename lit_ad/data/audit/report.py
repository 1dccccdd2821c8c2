"""The report of an audit, and its texts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lit_ad.batch import Sample
from lit_ad.counts import first_few, format_count
from lit_ad.data.audit.measurements import Header
from lit_ad.data.sources.source import Source
from lit_ad.data.splits import Splits
from lit_ad.errors import UserError
from lit_ad.image.pixels import Size


@dataclass
class AuditReport:
    """The summary of a data set, and what looks wrong with it."""

    text: str  # the summary, one line for each category
    warnings: list[str]  # sentences
    errors: list[str]  # sentences; with an error, a training is useless
    duplicates: list[list[Path]]  # groups of readable files with the same bytes
    near_duplicates: list[tuple[Path, Path]] = field(default_factory=list)  # nearly equal images with other bytes

    def __str__(self) -> str:
        return "\n".join([self.text, *(f"  Warning: {warning}" for warning in self.warnings)])

    def add_source_remarks(self, source: Source) -> None:
        """Add a source's remarks to the warnings, or its UserError to the errors."""
        try:
            self.warnings += source.remarks()
        except UserError as error:
            self.errors.append(str(error))


def describe_splits(splits: Splits, headers: Mapping[Path, Header]) -> str:
    """Return one line for each category: its images by split and defect, their masks, sizes and bit depths."""
    categories = dict.fromkeys(sample.category for samples in vars(splits).values() for sample in samples)
    lines = []
    for name in categories:
        by_split = {split: [s for s in samples if s.category == name] for split, samples in vars(splits).items()}
        readable = [headers[s.image] for samples in by_split.values() for s in samples if s.image in headers]
        modes = Counter(header.mode for header in readable)
        depths = [f"{mode} ({count})" if len(modes) > 1 else mode for mode, count in modes.most_common()]
        formats = f"; {', '.join([describe_sizes([header.size for header in readable]), *depths])}" if readable else ""
        lines.append(
            f"{name or 'images'}: {len(by_split['train'])} to train on, {len(by_split['val'])} held out; "
            f"test: {describe_test(by_split['test'])}{formats}"
        )
    return "\n".join(lines)


def describe_test(samples: Sequence[Sample]) -> str:
    """Return the number of test images by defect, and how many of them have masks."""
    if not samples:
        return "none"
    anomalous = [sample for sample in samples if sample.label]
    good = len(samples) - len(anomalous)
    masked = Counter(sample.defect for sample in anomalous if sample.mask is not None)
    some_masked = 0 < masked.total() < len(anomalous)
    parts = [f"{good} good"] if good else []
    for defect, count in sorted(Counter(sample.defect for sample in anomalous).items()):
        parts.append(f"{count} {defect}" + (f" ({masked[defect]} with masks)" if some_masked else ""))
    if anomalous and not some_masked:
        parts.append("each with a mask" if masked else "no masks")
    return ", ".join(parts)


def describe_sizes(sizes: Sequence[Size]) -> str:
    """Return height x width of images: all sizes if they are few, otherwise the smallest and the largest by area."""
    counts = Counter(sizes)
    if len(counts) > 3:
        by_area = sorted(counts, key=lambda size: size[0] * size[1])
        return f"{by_area[0][0]}x{by_area[0][1]} to {by_area[-1][0]}x{by_area[-1][1]} ({len(counts)} sizes)"
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{h}x{w}" + (f" ({count})" if len(ordered) > 1 else "") for (h, w), count in ordered)


def describe_unreadable(errors: Mapping[Path, str]) -> list[str]:
    """Return a sentence about files that cannot be read, if there are any. `errors`: the reason for each file."""
    if not errors:
        return []
    path, reason = next(iter(errors.items()))
    if len(errors) == 1:
        return [f"cannot read {path}: {reason}; replace or remove it"]
    return [f"cannot read {len(errors)} files: {first_few(list(errors))}; replace or remove them (the first: {reason})"]


def describe_unfit(reasons: Mapping[Path, str]) -> list[str]:
    """Return a sentence about readable images that do not fit the view, if there are any. `reasons`: by file."""
    if not reasons:
        return []
    path, reason = next(iter(reasons.items()))
    count = format_count(len(reasons), "image")
    return [f"model.view does not fit {count}: change it, or leave them out (the first, {path}: {reason})"]
