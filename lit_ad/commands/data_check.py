"""`lit-ad data check`."""

import json as as_json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lit_ad.batch import Sample
from lit_ad.data.audit.audit import audit_source
from lit_ad.data.audit.guess_source import guess_source
from lit_ad.data.audit.report import AuditReport
from lit_ad.data.sources.from_config import make_source
from lit_ad.data.sources.source import Source
from lit_ad.errors import UserError
from lit_ad.machine import cores


def data_check(
    path: Path | None = None,
    /,
    config: Path | None = None,
    backbone: str | None = None,
    weights: str = "hub",
    json: bool = False,
) -> None:
    """Print what a data set holds, and what looks wrong with it. Exit code 1 if it cannot be trained or tested on.

    Args:
        path: Folder in MVTec's layout, one category or several; with train/CLASS folders; or of images.
        config: A YAML file in place of it, whose data.source is looked at.
        backbone: A timm model, whose features tell which training images are unlike the others. None: not looked at.
        weights: Of the backbone: hub, or a file.
        json: Print JSON in place of the page.
    """
    if path is not None and config is None:
        source, about = guess_source(path)
    elif config is not None and path is None:
        source, about = configured_source(config)
    else:
        raise UserError("give either a folder or --config FILE: lit-ad data check PATH")
    samples, report = audit_source(source, cores(), backbone, weights, progress=not json)
    print(as_json.dumps(as_dict(about, samples, report), indent=2) if json else page(about, report, backbone))
    if report.errors:
        sys.exit(1)


def configured_source(config: Path) -> tuple[Source, str]:
    """Return the source of a config file, and a line about it. Raises UserError if it has none."""
    try:
        described = yaml.safe_load(config.read_text(encoding="utf-8"))["data"]["source"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{config} has no data.source to check ({type(error).__name__}: {error})") from error
    source, _ = make_source(described, f"data.source of {config}")
    return source, f"{config}: {type(source).__name__}"


def page(about: str, report: AuditReport, backbone: str | None) -> str:
    """The report as text."""
    lines = [about, report.text, *(f"  Error: {error}" for error in report.errors)]
    lines += [f"  Warning: {warning}" for warning in report.warnings]
    if backbone is None:
        lines.append("  Not looked at: training images unlike the others; give --backbone NAME, and --weights FILE")
    lines.append(f"{count(report.errors, 'error')}, {count(report.warnings, 'warning')}")
    return "\n".join(lines)


def count(items: Sequence[str], name: str) -> str:
    return f"{len(items) or 'no'} {name}{'' if len(items) == 1 else 's'}"


def as_dict(about: str, samples: Sequence[Sample], report: AuditReport) -> dict[str, Any]:
    """The report for programs."""
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
    }
