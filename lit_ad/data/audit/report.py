"""What an audit reports, and how it says so."""

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
    """What there is to train and test on, and what looks wrong with it."""

    text: str  # a line for each category
    warnings: list[str]  # each a sentence
    errors: list[str]  # each a sentence: with one of them there is no use in training
    duplicates: list[list[Path]]  # groups of files with the same bytes, of those that can be read
    near_duplicates: list[tuple[Path, Path]] = field(default_factory=list)  # nearly the same images, not the same bytes

    def __str__(self) -> str:
        return "\n".join([self.text, *(f"  Warning: {warning}" for warning in self.warnings)])

    def add_source_remarks(self, source: Source) -> None:
        """Add what a source has to say."""
        try:
            self.warnings += source.remarks()
        except UserError as error:
            self.errors.append(str(error))


def describe_splits(splits: Splits, headers: Mapping[Path, Header]) -> str:
    """A line for each category: its images by split and defect, those with masks, their sizes and depths."""
    categories = dict.fromkeys(sample.category for samples in vars(splits).values() for sample in samples)
    lines = []
    for name in categories:
        own = {split: [s for s in samples if s.category == name] for split, samples in vars(splits).items()}
        seen = [headers[s.image] for samples in own.values() for s in samples if s.image in headers]
        modes = Counter(header.mode for header in seen)
        depths = [f"{mode} ({count})" if len(modes) > 1 else mode for mode, count in modes.most_common()]
        looks = f"; {', '.join([describe_sizes([header.size for header in seen]), *depths])}" if seen else ""
        lines.append(
            f"{name or 'images'}: {len(own['train'])} to train on, {len(own['val'])} held out; "
            f"test: {describe_test(own['test'])}{looks}"
        )
    return "\n".join(lines)


def describe_test(samples: Sequence[Sample]) -> str:
    """The test images by defect, and how many of the anomalous ones have masks."""
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
    """Height x width of images: each, if they are few, or from the smallest to the largest area."""
    counts = Counter(sizes)
    if len(counts) > 3:
        by_area = sorted(counts, key=lambda size: size[0] * size[1])
        return f"{by_area[0][0]}x{by_area[0][1]} to {by_area[-1][0]}x{by_area[-1][1]} ({len(counts)} sizes)"
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{h}x{w}" + (f" ({count})" if len(ordered) > 1 else "") for (h, w), count in ordered)


def unreadable(errors: Mapping[Path, str]) -> list[str]:
    """One sentence about files that cannot be read, if there are any."""
    if not errors:
        return []
    path, reason = next(iter(errors.items()))
    if len(errors) == 1:
        return [f"cannot read {path}: {reason}; replace or remove it"]
    return [f"cannot read {len(errors)} files: {first_few(list(errors))}; replace or remove them (the first: {reason})"]


def unfit(reasons: Mapping[Path, str]) -> list[str]:
    """One sentence about sound images that the view does not fit, if there are any."""
    if not reasons:
        return []
    path, reason = next(iter(reasons.items()))
    count = format_count(len(reasons), "image")
    return [f"model.view does not fit {count}: change it, or leave them out (the first, {path}: {reason})"]
