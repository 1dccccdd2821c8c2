"""`lit-ad export`."""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image

from lit_ad.batch import Sample
from lit_ad.commands.chosen_file import chosen_file
from lit_ad.commands.own_method import import_own_method
from lit_ad.commands.recalibrate import refitted
from lit_ad.counts import format_count
from lit_ad.data.masks import read_truth
from lit_ad.data.sources.from_config import make_source
from lit_ad.data.sources.images import list_and_tell
from lit_ad.data.splits import Split, Splits, list_splits
from lit_ad.deploy.differences import TOLERANCE, list_excesses, measure_differences
from lit_ad.deploy.example import example_name, make_example
from lit_ad.deploy.export import SUFFIX, Format, Precision, check_options
from lit_ad.deploy.export import export as write
from lit_ad.deploy.exported_file import rewrite
from lit_ad.deploy.self_check import COUNT, loosen
from lit_ad.detector.card import Card
from lit_ad.detector.decision_keys import DecisionKeys
from lit_ad.detector.detector import Detector
from lit_ad.detector.guarantee import describe_by_hand
from lit_ad.detector.inputs import ImageLike
from lit_ad.detector.run_files import CONFIG, run_of
from lit_ad.errors import UserError
from lit_ad.files import check_writable, explain_write_errors, find_free_path, new_folder, resolve_path
from lit_ad.image.roi import values_inside
from lit_ad.image.view import View
from lit_ad.methods.base import Method
from lit_ad.methods.network import make_inference_network
from lit_ad.metrics import ImageAUROC, PixelAUROC

_COMPARED = 8  # images
T = TypeVar("T")


def export(
    run: Path | None = None,
    /,
    ckpt_path: Path | None = None,
    format: Format = "onnx",
    precision: Precision = "fp32",
    output: Path | None = None,
    nominal: Path | None = None,
    images: Path | None = None,
    weights: Path | None = None,
    opset: int | None = None,
    ir: int | None = None,
    self_check: bool = True,
) -> None:
    """Write a checkpoint as one file for another runtime, and compare what the two say of some images.

    OUTPUT gets NAME.onnx (or .xml and .bin, or .pt2), NAME.onnx.json with the differences, and the program
    NAME.onnx.example.py. An earlier export stays: the new one's name has a number then.

    Args:
        run: RUN, whose best checkpoint is taken, or a checkpoint.
        ckpt_path: The same.
        format: For ONNX Runtime, OpenVINO, or torch.export.
        precision: Of the network. int8 is calibrated on nominal training images.
        output: Folder. None: RUN/export, or "export" beside a checkpoint that is in no run.
        nominal: Folder of nominal training images for int8. None: those of RUN/config.yaml.
        images: Folder of images to compare on. None: test images of RUN/config.yaml; made-up ones if they are gone.
        weights: The teacher's, if they are no longer where they were.
        opset: Of an ONNX file, the version of its operators. None: 18.
        ir: Of an ONNX file, the version of its format. None: the oldest that has the opset, 8 of 18. ONNX Runtime 1.17
            reads files up to opset 20 and version 9.
        self_check: Whether the file carries three of the images that it is compared on, and what the checkpoint said of
            them. `Detector.load` compares them where the file is loaded. Whoever has the file can see these images.
    """
    os.environ.setdefault("NNCF_CI", "1")  # without it, NNCF sends usage data, unasked and by a fork of this process
    ckpt_path, output = chosen_file("export", run, ckpt_path), None if output is None else resolve_path(output)
    if ckpt_path.suffix != ".ckpt":
        raise UserError(f"{ckpt_path} is exported already: give the run, or a checkpoint")
    check_options(format, precision, opset, ir)
    import_own_method(ckpt_path)
    method: Method = Method.load_from_checkpoint(ckpt_path, weights=weights)
    method.requires_grad_(False)
    home = run_of(ckpt_path)
    splits, gone = Splits(), "it is in no run" if home is None else ""
    if home is not None and not (images and (nominal or precision != "int8")):
        splits, gone = find_splits(home / CONFIG)
    calibration = list_and_tell(nominal) if nominal else splits.train
    if precision == "int8" and not calibration:
        raise UserError(
            f"int8 is calibrated on nominal training images, and those of {ckpt_path} are not to be had ({gone}): give "
            "--nominal FOLDER"
        )
    compared = pick(list_and_tell(images) if images else splits.test or splits.val or calibration, _COMPARED)
    pictures: list[ImageLike] = [sample.image for sample in compared]
    if not pictures:
        pictures = list(made_up(method.view, _COMPARED))
        print(f"The images of {ckpt_path} are not to be had ({gone}): it is compared on {_COMPARED} made-up ones")
    folder = output or (home or ckpt_path.parent) / "export"
    check_writable(folder, "--output")  # writing takes minutes
    usual = f"{type(method).__name__.lower()}-{precision}{SUFFIX[format]}"
    name = find_free_path(folder / usual).name
    with new_folder(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
        file = Path(scratch, name)
        carried = pick(pictures, COUNT) if self_check else []
        card = write(method, file, format, precision, [sample.image for sample in calibration], opset, ir, carried)
        if card.without_map:
            print(f"The file has scores and no anomaly_map: {card.without_map}.")
        checkpoint, exported = Detector(make_inference_network(method), method.card), Detector.load(file, verify=False)
        report = compare(exported, checkpoint, pictures, precision)
        if precision == "int8" and card.decision is not None:  # its scores are others, and so are its thresholds
            card = with_own_decision(exported, splits.val if decides(checkpoint, splits.val) else [], file)
            exported = Detector(exported.network, card)
        if precision == "int8":
            loosen(file)
        if precision == "int8" and splits.test:
            report["auroc"] = aurocs(exported, checkpoint, splits.test)
        text = json.dumps(report, indent=2, allow_nan=False) + "\n"
        with explain_write_errors(folder, "make room, or give another --output"):
            file.with_name(f"{name}.json").write_text(text, encoding="utf-8")
            file.with_name(example_name(file)).write_text(make_example(file, card), encoding="utf-8")
            for written in sorted(Path(scratch).iterdir(), key=lambda path: path.suffix == SUFFIX[format]):
                written.replace(folder / written.name)  # the file itself comes last
    earlier = "" if name == usual else f". {usual} of an earlier export stays as it is"
    if carried:
        count = format_count(len(carried), "image")
        print(f"The file carries {count} of these, by which it is checked where it is loaded (lit-ad verify)")
    print(f"{folder / name}, and beside it {name}.json and {example_name(file)}{earlier}")


def decides(checkpoint: Detector, held_out: list[Sample]) -> bool:
    """Whether a checkpoint's decision is made of these images, and of no others, by their number and some scores.

    It is not after `lit-ad recalibrate --nominal`, nor where only a half of the images decides. What its guarantee says
    of the images would then be wrong of these.
    """
    decision = checkpoint.card.decision
    assert decision is not None
    counts = Counter(sample.category for sample in held_out)
    if any(len(decision.scores.get(category, ())) != count for category, count in counts.items()):
        return False
    for category in counts:
        some = pick([sample for sample in held_out if sample.category == category], 3)
        scores = np.array([detection.score for detection in checkpoint([sample.image for sample in some])])
        near = np.isclose(scores[:, None], np.asarray(decision.scores[category])[None, :], rtol=1e-2)
        if not near.any(axis=1).all():
            return False
    return True


def with_own_decision(exported: Detector, held_out: list[Sample], file: Path) -> Card:
    """The card with the file's own scores of the held-out images, which is written into it."""
    decision = exported.card.decision
    if not held_out:
        print(
            "Its thresholds are still those of fp32, since the images that set them are gone or not the run's held-out "
            "ones: run lit-ad recalibrate on it, with good images that nothing was trained on"
        )
        return exported.card
    for category in sorted({sample.category for sample in held_out}):
        images = [sample.image for sample in held_out if sample.category == category]
        exported = Detector(
            exported.network, replace(exported.card, decision=refitted(exported, images, category, DecisionKeys()))
        )
    rewrite(file, file, exported.card)
    assert decision is not None and exported.card.decision is not None
    print(
        f"threshold from {format_count(len(held_out), 'held-out image')}: {decision.threshold():.6g} in fp32, ", end=""
    )
    print(f"{exported.card.decision.threshold():.6g} in int8")
    # Thresholds set by hand stay, but stand for another rate among the new scores.
    for line in describe_by_hand(exported.card.decision):
        print(line)
    return exported.card


def find_splits(config: Path) -> tuple[Splits, str]:
    """List the images of a run. If they are gone, return empty lists and the reason."""
    try:
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
        source, _ = make_source(settings["data"]["source"], f"data.source of {config}")
        return list_splits(source, Split.from_config(settings)), ""  # of folds, all images train
    except OSError as error:
        return Splits(), f"{config}: {error.strerror}"
    except UserError as error:
        return Splits(), str(error)


def made_up(view: View, count: int) -> Iterator[NDArray[Any]]:
    """Smooth random images with noise, of the view's own size: (H0, W0, 3) uint8, or (H0, W0) float32 in its window."""
    generator = np.random.default_rng(0)
    height, width = view.blank().shape[:2]
    for _ in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        pixels = (smooth + generator.normal(0, 10, smooth.shape)).clip(0, 255)
        if view.levels is None:
            yield pixels.astype(np.uint8)
        else:
            low, high = view.levels
            yield (low + pixels[..., 0] * ((high - low) / 255)).astype(np.float32)


def pick(items: list[T], count: int) -> list[T]:
    """`count` of them, spread evenly."""
    rows = sorted({round(row) for row in np.linspace(0, len(items) - 1, count)}) if items else []
    return [items[row] for row in rows]


def compare(exported: Detector, checkpoint: Detector, images: list[ImageLike], precision: Precision) -> dict[str, Any]:
    """What is said of the differences. Raises UserError if they are beyond the precision's tolerance."""
    by_size = measure_differences(exported, checkpoint, images)
    tolerance = TOLERANCE.get(precision)
    print(f"Against the checkpoint, on {format_count(len(images), 'image')}, the largest relative difference:")
    for size, values in by_size.items():
        print(f"  {size}: " + ", ".join(f"{name} {value:.1e}" for name, value in values.items()))
    wrong = [] if tolerance is None else list_excesses(by_size, tolerance)
    if wrong:
        raise UserError(
            f"the exported file differs from the checkpoint, {'; '.join(wrong)}, where {precision} may differ by "
            f"{tolerance:.0e}: no file was written"
        )
    names = [str(image) if isinstance(image, Path) else "made up" for image in images]
    return {"precision": precision, "tolerance": tolerance, "differences": by_size, "images": names}


def aurocs(exported: Detector, checkpoint: Detector, test: list[Sample]) -> dict[str, dict[str, float]]:
    """What int8 costs on the run's test images."""
    by_precision = {"fp32": auroc(checkpoint, test), "int8": auroc(exported, test)}
    for name, before in by_precision["fp32"].items():
        after = by_precision["int8"][name]
        change = f"{before:.4f} in fp32, {after:.4f} in int8 ({after - before:+.4f})"
        print(f"{name} on {format_count(len(test), 'test image')}: {change}")
    return by_precision


def auroc(detector: Detector, test: list[Sample]) -> dict[str, float]:
    """Image AUROC, and pixel AUROC where there are masks."""
    of_images, of_pixels = ImageAUROC(), PixelAUROC()
    for sample, detection in zip(test, detector.stream(sample.image for sample in test), strict=True):
        of_images.update(torch.tensor([detection.score]), torch.tensor([sample.label]))
        truth = read_truth(sample, (detection.image.shape[0], detection.image.shape[1]))
        if detection.anomaly_map is not None and truth is not None:
            pixels = [values_inside(array, detection.roi).ravel() for array in (detection.anomaly_map, truth.numpy())]
            of_pixels.update(*map(torch.from_numpy, pixels))
    values = {"image_auroc": float(of_images.compute()), "pixel_auroc": float(of_pixels.compute())}
    return {name: value for name, value in values.items() if not np.isnan(value)}
