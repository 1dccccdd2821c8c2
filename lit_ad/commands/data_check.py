"""`lit-ad data check`."""

import inspect
import json as as_json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from lit_ad.batch import Sample
from lit_ad.counts import format_count
from lit_ad.data.audit.audit import audit_source
from lit_ad.data.audit.guess_source import guess_source
from lit_ad.data.audit.removal import choose_files_to_remove
from lit_ad.data.audit.report import AuditReport
from lit_ad.data.sources.from_config import make_source
from lit_ad.data.sources.source import Source
from lit_ad.data.splits import Split
from lit_ad.errors import UserError
from lit_ad.files import atomic_write
from lit_ad.machine import cores


@dataclass(frozen=True)
class CheckedSplit:
    """Which images a training would hold out.

    Args:
        val_fraction: Part of the nominal training images that fit would hold out. None: the config's value, or 0.2.
        seed: The seed that chooses the held-out images. None: the config's value, or 0.
    """

    val_fraction: float | None = None
    seed: int | None = None

    def replace_in(self, split: Split) -> Split:
        """Return a split with the values that are given here. Raises UserError if fit would refuse them."""
        return replace(split, **{name: value for name, value in vars(self).items() if value is not None})


@dataclass(frozen=True)
class CheckedData:
    """The data set to check, given by the same flags as for fit.

    Args:
        source: Any source of images, with its own flags, as for fit.
        split: Which images a training would hold out.
    """

    source: Source | None = None
    split: CheckedSplit = CheckedSplit()


def data_check(
    path: Path | None = None,
    /,
    data: CheckedData = CheckedData(),
    config: Path | None = None,
    backbone: str | None = None,
    weights: str = "hub",
    json: bool = False,
    remove: Path | None = None,
) -> None:
    """Print what a data set holds, and what looks wrong with it. The exit code is 1 if fit could not use it.

    Args:
        path: A folder: in MVTec's layout, with one category or several; with train/CLASS folders; or of images.
        data: For any other layout, as for fit: --data.source Folder --data.source.root PATH.
        config: A YAML file whose data.source is checked, in place of a path.
        backbone: A timm model. Its features tell which training images are unlike the others. None: no such check.
        weights: The backbone's weights: hub, or a file.
        json: Print JSON in place of the page, with all pairs of copies.
        remove: A file to write. It lists the surplus copies of images, one path a line, for you to remove.

    Raises:
        UserError: No data set or more than one is given, it cannot be read, or `remove` exists already.
    """
    _refuse_all_but_one({"the folder": path, "--config": config, "--data.source": data.source})
    if remove is not None and remove.exists():
        raise UserError(f"{remove} exists already: give another --remove")
    split = Split()
    if path is not None:
        source, about = guess_source(path)
    elif config is not None:
        source, about, split = _read_source(config)
    else:
        assert data.source is not None
        source, about = data.source, f"data.source: {type(data.source).__name__}"
    samples, report = audit_source(source, cores(), backbone, weights, not json, data.split.replace_in(split))
    if remove is not None:
        files = choose_files_to_remove(samples, report)
        with atomic_write(remove) as temporary:
            text = "".join(f"{file}\n" for file in files)
            temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
        about += f"\n  {format_count(len(files), 'file to remove is', 'files to remove are')} listed in {remove}"
    print(as_json.dumps(_to_dict(about, samples, report), indent=2) if json else _format_page(about, report, backbone))
    if report.errors:
        sys.exit(1)


def _refuse_all_but_one(given: dict[str, object]) -> None:
    """Raise UserError, which says what to add or to leave out, unless exactly one argument is given (is not None)."""
    names = [name for name, value in given.items() if value is not None]
    if not names:
        raise UserError("give a data set to check: lit-ad data check PATH, or --config FILE, or --data.source NAME")
    if len(names) > 1:
        choices = [f"to check that of {name}, leave out {' and '.join(sorted({*names} - {name}))}" for name in names]
        raise UserError(
            f"{' and '.join(names)} each name a data set, but only one can be checked: {'; '.join(choices)}"
        )


def _read_source(config: Path) -> tuple[Source, str, Split]:
    """Return the source of a config file, a line about it, and how the file holds out images.

    Raises:
        UserError: The file cannot be read, has no data.source, or has an unknown key below data.
    """
    from lit_ad.data.datamodule import AnomalyDataModule  # imports Lightning, which takes seconds

    try:
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))["data"]
        described = settings["source"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{config} has no data.source to check ({type(error).__name__}: {error})") from error
    unknown = sorted(set(settings) - set(inspect.signature(AnomalyDataModule).parameters))
    if unknown:
        raise UserError(f"there is no key data.{unknown[0]} (in {config})")
    source, _ = make_source(described, f"data.source of {config}")
    split = settings.get("split") or {}
    chosen = {field.name: split[field.name] for field in fields(CheckedSplit) if split.get(field.name) is not None}
    return source, f"{config}: {type(source).__name__}", Split(**chosen)


def _format_page(about: str, report: AuditReport, backbone: str | None) -> str:
    """Return the report as text."""
    lines = [about, report.text, *(f"  Error: {error}" for error in report.errors)]
    lines += [f"  Warning: {warning}" for warning in report.warnings]
    if backbone is None:
        lines.append("  Not checked: training images unlike the others; give --backbone NAME, and --weights FILE")
    lines.append(f"{format_count(len(report.errors), 'error')}, {format_count(len(report.warnings), 'warning')}")
    return "\n".join(lines)


def _to_dict(about: str, samples: Sequence[Sample], report: AuditReport) -> dict[str, Any]:
    """Return the report as a dict for JSON."""
    counts = Counter((sample.category, sample.split, sample.defect) for sample in samples)
    return {
        "source": about,
        "counts": [
            {"category": category, "split": split, "defect": defect, "images": number}
            for (category, split, defect), number in sorted(counts.items())
        ],
        "masks": sum(sample.mask is not None for sample in samples),
        "text": report.text,
        "errors": report.errors,
        "warnings": report.warnings,
        "duplicates": [[str(file) for file in group] for group in report.duplicates],
        "near_duplicates": [[str(first), str(second)] for first, second in report.near_duplicates],
    }
