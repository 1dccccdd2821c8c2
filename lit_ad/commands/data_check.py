"""`lit-ad data check`."""

import json as as_json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from lit_ad.batch import Sample
from lit_ad.data import Folder, Images, MVTec, OneClass
from lit_ad.data.audit.inspection import Report, inspect_samples, some, told
from lit_ad.data.audit.near_duplicates import likeness_warnings, look_at
from lit_ad.data.masks import mask_files
from lit_ad.data.sources.from_config import make_source
from lit_ad.data.sources.pages import by_page
from lit_ad.data.sources.source import Source, check, holds_images, list_folders, readable
from lit_ad.errors import UserError
from lit_ad.image.pixels import open_image, read_image, upright_size
from lit_ad.image.view import View
from lit_ad.machine import cores

NEIGHBOURS = 5  # nearest training images by which an image is judged to be far off
FAR = 5.0  # deviations, of the logarithm of that distance
GREYS = 16  # values of a mask above which its edges are called antialiased
Splits = dict[str, list[Sample]]


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
    if (path is None) == (config is None):
        raise UserError("give either a folder or --config FILE: lit-ad data check PATH")
    source, kind = found_source(path) if path is not None else source_of(config)  # type: ignore[arg-type]
    source.prepare()
    with readable():
        samples = by_page(source.samples())
    splits: Splits = {
        "train": [s for s in samples if s.split == "train"],
        "val": [s for s in samples if s.split == "validation"],
        "test": [s for s in samples if s.split == "test"],
    }
    report = inspect_samples(splits, cores(), progress=not json)
    told(report, source)
    report.errors += wrong_samples(samples)
    exact = {frozenset((a, b)) for group in report.equal for a in group for b in group if a != b}
    report.warnings += likeness_warnings(look_at(samples, cores()), exact)
    report.warnings += grey_masks([file for s in samples if s.mask_above is None for file in mask_files(s.mask)])
    if backbone is not None:
        report.warnings += outliers(splits["train"], backbone, weights)
    print(as_json.dumps(values(kind, samples, report), indent=2) if json else page(kind, report, backbone))
    if report.errors:
        sys.exit(1)


def found_source(path: Path) -> tuple[Source, str]:
    """The source of a folder, and how it was taken. Raises UserError if it is none that is known."""
    path = path.expanduser()
    if not path.is_dir():
        raise UserError(f"{path} is no folder: give one of images, or --config FILE")
    if (path / "train" / "good").is_dir():
        return MVTec(path), f"{path}: MVTec AD's layout, one category"
    categories = [folder for folder in list_folders(path) if (folder / "train" / "good").is_dir()]
    if categories:
        return MVTec(path), f"{path}: MVTec AD's layout, {len(categories)} categories"
    classes = [folder.name for folder in list_folders(path / "train") if holds_images(folder)]
    if classes:
        kind = f"{path}: a folder for each of {len(classes)} classes, all taken as nominal"
        return OneClass(path, normal=classes), kind
    if holds_images(path):
        return Folder(".", root=path), f"{path}: a folder of images, all taken as nominal"
    if Images(path).samples():
        return Nominal(path), f"{path}: folders of images at any depth, all taken as nominal"
    raise AssertionError("Images raises UserError where there is none")


class Nominal(Source):
    """Every image below a folder, as a nominal one to train on."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def samples(self) -> list[Sample]:
        return [s._replace(label=0, defect="good", category="", split="train") for s in Images(self.root).samples()]


def source_of(config: Path) -> tuple[Source, str]:
    """The source of a config file. Raises UserError if it has none."""
    try:
        described = yaml.safe_load(config.read_text())["data"]["source"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{config} has no data.source to check ({type(error).__name__}: {error})") from error
    source, _ = make_source(described, f"data.source of {config}")
    return source, f"{config}: {type(source).__name__}"


def wrong_samples(samples: Sequence[Sample]) -> list[str]:
    """What no training would accept: samples that contradict each other, masks of another size than their images."""
    said = []
    try:
        check(samples)
    except UserError as error:
        said.append(str(error))
    sizes = []
    for sample in samples:
        for file in mask_files(sample.mask):
            try:
                mask, image = upright_size(file), upright_size(sample.image)
            except UserError:
                continue  # it is told of already
            if mask != image:
                sizes.append(f"{file} ({mask[0]}x{mask[1]}, its image {image[0]}x{image[1]})")
    if sizes:
        said.append(f"masks of another size than their image, {len(sizes)} times (height x width): {some(sizes)}")
    return said


def grey_masks(masks: Sequence[Path]) -> list[str]:
    """Of masks with more values than a mask has."""
    grey, classes = [], []
    for path in masks:
        try:
            image = open_image(path)
        except UserError:
            continue  # it is told of already
        shown = np.unique(np.asarray(image if image.mode[0] in "1LPIF" else image.convert("L")))
        if image.format == "JPEG" or len(shown) > GREYS:
            grey.append(path)
        elif len(shown) > 2:
            classes.append(path)
    said = []
    if grey:
        said.append(
            f"masks with grey edges, antialiased or of JPEG, {len(grey)} times: {some(grey)}; save them as PNG of two "
            "values"
        )
    if classes:
        said.append(f"masks of several values, {len(classes)} times: {some(classes)}; all but 0 count as defect")
    return said


def outliers(train: Sequence[Sample], backbone: str, weights: str) -> list[str]:
    """Of training images whose features are far from those of the others of their category."""
    import torch

    from lit_ad.methods.base import as_images  # which bring Lightning and timm, and only this question needs them
    from lit_ad.teachers.backbone import Teacher

    teacher = Teacher(backbone, taps_of(backbone), weights)
    view = View(224).of_multiple(teacher.patch_size or 1)
    said = []
    for category in dict.fromkeys(sample.category for sample in train):
        seen: list[Path] = []
        rows = []
        for sample in train:
            if sample.category == category:
                try:
                    pixels, _ = view(read_image(sample.image))
                except UserError:
                    continue  # it is told of already
                images = as_images(torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None])
                with torch.inference_mode():
                    levels = teacher(images)
                rows.append(np.concatenate([level.flatten(2).mean(dim=2)[0].numpy() for level in levels]))
                seen.append(sample.image)
        far = far_off(np.array(rows)) if len(rows) > 2 * NEIGHBOURS else np.zeros(0, np.int64)
        if len(far):
            names = some([seen[row] for row in far])
            said.append(
                f"training images unlike the others by {backbone}'s features, {len(far)} of {len(seen)}: {names}; look "
                "whether they are good"
            )
    return said


def far_off(features: NDArray[Any]) -> NDArray[np.int64]:
    """Rows of features (n, D) that are far from their nearest neighbours, where others are not, the farthest first."""
    spread = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    squares = np.square(scaled).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * scaled @ scaled.T, 0))
    nearest = np.log(np.maximum(np.sort(distances, axis=1)[:, 1 : NEIGHBOURS + 1].mean(axis=1), 1e-12))
    centre = np.median(nearest)
    deviation = 1.4826 * np.median(np.abs(nearest - centre))
    order = np.argsort(-nearest, kind="stable")
    return order[nearest[order] > centre + FAR * max(float(deviation), 1e-3)]


def taps_of(backbone: str) -> list[int]:
    """Two levels of a backbone in its middle."""
    return [1, 2] if "vit" not in backbone and "deit" not in backbone else [3, 7]


def page(kind: str, report: Report, backbone: str | None) -> str:
    """The text."""
    lines = [kind, report.text, *(f"  Error: {error}" for error in report.errors)]
    lines += [f"  Warning: {warning}" for warning in report.warnings]
    if backbone is None:
        lines.append("  Not looked at: training images unlike the others; give --backbone NAME, and --weights FILE")
    lines.append(f"{count(report.errors, 'error')}, {count(report.warnings, 'warning')}")
    return "\n".join(lines)


def count(items: Sequence[str], name: str) -> str:
    return f"{len(items) or 'no'} {name}{'' if len(items) == 1 else 's'}"


def values(kind: str, samples: Sequence[Sample], report: Report) -> dict[str, Any]:
    """The same for programs."""
    counts = Counter((sample.category, sample.split, sample.defect) for sample in samples)
    return {
        "source": kind,
        "counts": [
            {"category": category, "split": split, "defect": defect, "images": number}
            for (category, split, defect), number in sorted(counts.items())
        ],
        "masks": sum(sample.mask is not None for sample in samples),
        "text": report.text,
        "errors": report.errors,
        "warnings": report.warnings,
    }
