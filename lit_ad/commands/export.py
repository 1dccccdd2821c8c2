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
from lit_ad.commands.detector_argument import require_detector
from lit_ad.commands.own_method import import_own_method
from lit_ad.commands.recalibrate import refit_decision
from lit_ad.counts import format_count
from lit_ad.data.masks import read_truth
from lit_ad.data.sources.from_config import make_source
from lit_ad.data.sources.images import list_and_tell
from lit_ad.data.splits import Split, Splits, list_splits
from lit_ad.deploy.differences import TOLERANCE, list_excesses, measure_differences
from lit_ad.deploy.example import make_example, name_example
from lit_ad.deploy.export import SUFFIX, Format, Precision, check_options
from lit_ad.deploy.export import export as write
from lit_ad.deploy.exported_file import rewrite
from lit_ad.deploy.self_check import COUNT, loosen
from lit_ad.detector.card import Card
from lit_ad.detector.decision_keys import DecisionKeys
from lit_ad.detector.detector import Detector
from lit_ad.detector.guarantee import describe_by_hand
from lit_ad.detector.inputs import ImageLike
from lit_ad.detector.run_files import CONFIG, find_run
from lit_ad.errors import UserError
from lit_ad.files import check_writable, explain_write_errors, find_free_path, new_folder, resolve_path
from lit_ad.image.roi import select_inside
from lit_ad.image.view import View
from lit_ad.methods.base import Method
from lit_ad.methods.network import make_inference_network
from lit_ad.metrics import ImageAUROC, PixelAUROC
from lit_ad.training.scale_images import drop_scale_images

_COMPARED = 8  # number of images on which the exported file is compared with the checkpoint
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
    """Write a checkpoint as one file for another runtime, and compare the two on some images.

    OUTPUT gets NAME.onnx (or .xml and .bin, or .pt2), NAME.onnx.json with the differences, and the program
    NAME.onnx.example.py. An earlier export stays; the new file then has a number in its name.

    Args:
        run: RUN, a run's directory, whose best checkpoint is exported; or a checkpoint.
        ckpt_path: Another way to give the run or the checkpoint.
        format: The runtime: ONNX Runtime, OpenVINO, or torch.export.
        precision: The precision of the network. int8 is calibrated on nominal training images.
        output: The folder to write. None: RUN/export, or "export" beside a checkpoint that is in no run.
        nominal: A folder of nominal training images for int8. None: those of RUN/config.yaml.
        images: A folder of images to compare on. None: test images of RUN/config.yaml, or random ones if those are
            gone.
        weights: The teacher's weights, if their file has moved.
        opset: The version of the operators in an ONNX file. None: 18.
        ir: The version of the format of an ONNX file. None: the oldest that has the opset, which is 8 for opset 18.
            ONNX Runtime 1.17 reads files up to opset 20 and version 9.
        self_check: Whether the file carries three of the compared images, with the checkpoint's results on them.
            `Detector.load` then compares its own results with them. Whoever has the file can see these images.

    Raises:
        UserError: The options do not fit together, images are missing, or the file differs from the checkpoint.
    """
    os.environ.setdefault("NNCF_CI", "1")  # otherwise NNCF sends usage data unasked, from a fork of this process
    ckpt_path, output = require_detector("export", run, ckpt_path), None if output is None else resolve_path(output)
    if ckpt_path.suffix != ".ckpt":
        raise UserError(f"{ckpt_path} is an exported file: give the run, or a checkpoint")
    check_options(format, precision, opset, ir)
    import_own_method(ckpt_path)
    method: Method = Method.load_from_checkpoint(ckpt_path, weights=weights)
    method.requires_grad_(False)
    home = find_run(ckpt_path)
    splits, reason = Splits(), "it is in no run" if home is None else ""
    if home is not None and not (images and (nominal or precision != "int8")):
        splits, reason = find_splits(home / CONFIG)
    calibration = list_and_tell(nominal) if nominal else splits.train
    if precision == "int8" and not calibration:
        raise UserError(
            f"int8 is calibrated on nominal training images, but those of {ckpt_path} are not available ({reason}): "
            "give --nominal FOLDER"
        )
    compared = pick(list_and_tell(images) if images else splits.test or splits.val or calibration, _COMPARED)
    pictures: list[ImageLike] = [sample.image for sample in compared]
    if not pictures:
        pictures = list(make_random_images(method.view, _COMPARED))
        print(f"The images of {ckpt_path} are not available ({reason}): {_COMPARED} random images are compared")
    folder = output or (home or ckpt_path.parent) / "export"
    check_writable(folder, "--output")  # now, because the export takes minutes
    plain_name = f"{type(method).__name__.lower()}-{precision}{SUFFIX[format]}"
    name = find_free_path(folder / plain_name).name
    with new_folder(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
        file = Path(scratch, name)
        carried = pick(pictures, COUNT) if self_check else []
        card = write(method, file, format, precision, [sample.image for sample in calibration], opset, ir, carried)
        if card.without_map:
            print(f"The file has scores and no anomaly_map: {card.without_map}.")
        checkpoint, exported = Detector(make_inference_network(method), method.card), Detector.load(file, verify=False)
        report = compare(exported, checkpoint, pictures, precision)
        if precision == "int8" and card.decision is not None:  # int8 changes the scores, so it needs other thresholds
            held_out = drop_scale_images(splits.val, card.decision.scaled)
            card = refit_thresholds(exported, held_out if is_decision_from(checkpoint, held_out) else [], file)
            exported = Detector(exported.network, card)
        if precision == "int8":
            loosen(file)
        if precision == "int8" and splits.test:
            report["auroc"] = compare_aurocs(exported, checkpoint, splits.test)
        text = json.dumps(report, indent=2, allow_nan=False) + "\n"
        with explain_write_errors(folder, "make room, or give another --output"):
            file.with_name(f"{name}.json").write_text(text, encoding="utf-8")
            file.with_name(name_example(file)).write_text(make_example(file, card), encoding="utf-8")
            for written in sorted(Path(scratch).iterdir(), key=lambda path: path.suffix == SUFFIX[format]):
                written.replace(folder / written.name)  # the exported file itself comes last
    earlier = "" if name == plain_name else f". {plain_name} of an earlier export stays as it is"
    if carried:
        count = format_count(len(carried), "image")
        print(f"The file carries {count} of these; wherever it is loaded, it is checked on them (lit-ad verify)")
    print(f"{folder / name}, and beside it {name}.json and {name_example(file)}{earlier}")


def is_decision_from(checkpoint: Detector, held_out: list[Sample]) -> bool:
    """Return whether a checkpoint's decision comes from exactly these images: their number and some scores tell.

    After `lit-ad recalibrate --nominal` it comes from other images, and its guarantee is about these.
    """
    decision = checkpoint.card.decision
    assert decision is not None
    counts = Counter(sample.category for sample in held_out)
    if any(len(decision.scores.get(category, ())) != count for category, count in counts.items()):
        return False
    for category in counts:
        few = pick([sample for sample in held_out if sample.category == category], 3)
        scores = np.array([detection.score for detection in checkpoint([sample.image for sample in few])])
        near = np.isclose(scores[:, None], np.asarray(decision.scores[category])[None, :], rtol=1e-2)
        if not near.any(axis=1).all():
            return False
    return True


def refit_thresholds(exported: Detector, held_out: list[Sample], file: Path) -> Card:
    """Set an int8 file's thresholds by its own scores of the held-out images. Write the new card to the file, and
    return it.

    Without held-out images, the thresholds of fp32 stay, and a line says so.
    """
    decision = exported.card.decision
    if not held_out:
        assert decision is not None
        folds = any(decision.folds.values())
        print(
            "The int8 file has the thresholds of fp32, because "
            f"{'the trainings of decision.folds' if folds else 'images that are gone or were not held out by the run'} "
            "set them: run lit-ad recalibrate on the file, with good images that were not used for training"
        )
        return exported.card
    for category in sorted({sample.category for sample in held_out}):
        images = [sample.image for sample in held_out if sample.category == category]
        refitted = refit_decision(exported, images, category, DecisionKeys())
        exported = Detector(exported.network, replace(exported.card, decision=refitted))
    rewrite(file, file, exported.card)
    assert decision is not None and exported.card.decision is not None
    print(
        f"threshold from {format_count(len(held_out), 'held-out image')}: {decision.threshold():.6g} in fp32, ", end=""
    )
    print(f"{exported.card.decision.threshold():.6g} in int8")
    for line in describe_by_hand(exported.card.decision):  # these stay, but among the new scores their rate differs
        print(line)
    return exported.card


def find_splits(config: Path) -> tuple[Splits, str]:
    """Return the images of a run, and "". If the images are gone, return empty lists and the reason."""
    try:
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
        source, _ = make_source(settings["data"]["source"], f"data.source of {config}")
        return list_splits(source, Split.from_config(settings)), ""  # with folds, all images are used for training
    except OSError as error:
        return Splits(), f"{config}: {error.strerror}"
    except UserError as error:
        return Splits(), str(error)


def make_random_images(view: View, count: int) -> Iterator[NDArray[Any]]:
    """Yield smooth random images with noise, at the view's size.

    Each is (H0, W0, 3) uint8, or for a view with a window of levels (H0, W0) float32 within that window.
    """
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
    """Return `count` of the items, spread evenly over the list; all of them if there are fewer."""
    rows = sorted({round(row) for row in np.linspace(0, len(items) - 1, count)}) if items else []
    return [items[row] for row in rows]


def compare(exported: Detector, checkpoint: Detector, images: list[ImageLike], precision: Precision) -> dict[str, Any]:
    """Compare an exported file with its checkpoint, print the differences, and return them for the report.

    Raises:
        UserError: A difference is beyond the precision's tolerance.
    """
    by_size = measure_differences(exported, checkpoint, images)
    tolerance = TOLERANCE.get(precision)
    print(f"Against the checkpoint, on {format_count(len(images), 'image')}, the largest relative difference:")
    for size, values in by_size.items():
        print(f"  {size}: " + ", ".join(f"{name} {value:.1e}" for name, value in values.items()))
    wrong = [] if tolerance is None else list_excesses(by_size, tolerance)
    if wrong:
        raise UserError(
            f"the exported file differs from the checkpoint: {'; '.join(wrong)}. {precision} may differ by "
            f"{tolerance:.0e}, so no file was written"
        )
    names = [str(image) if isinstance(image, Path) else "made up" for image in images]
    return {"precision": precision, "tolerance": tolerance, "differences": by_size, "images": names}


def compare_aurocs(exported: Detector, checkpoint: Detector, test: list[Sample]) -> dict[str, dict[str, float]]:
    """Print and return the AUROCs of fp32 and of int8 on the run's test images."""
    by_precision = {"fp32": _measure_aurocs(checkpoint, test), "int8": _measure_aurocs(exported, test)}
    for name, after in by_precision["int8"].items():  # a file may have no maps, and so no AUROC of pixels
        before = by_precision["fp32"][name]
        change = f"{before:.4f} in fp32, {after:.4f} in int8 ({after - before:+.4f})"
        print(f"{name} on {format_count(len(test), 'test image')}: {change}")
    return by_precision


def _measure_aurocs(detector: Detector, test: list[Sample]) -> dict[str, float]:
    """Return the image AUROC, and the pixel AUROC where there are masks."""
    image_auroc, pixel_auroc = ImageAUROC(), PixelAUROC()
    for sample, detection in zip(test, detector.stream(sample.image for sample in test), strict=True):
        image_auroc.update(torch.tensor([detection.score]), torch.tensor([sample.label]))
        truth = read_truth(sample, (detection.image.shape[0], detection.image.shape[1]))
        if detection.anomaly_map is not None and truth is not None:
            pixels = [select_inside(array, detection.roi).ravel() for array in (detection.anomaly_map, truth.numpy())]
            pixel_auroc.update(*map(torch.from_numpy, pixels))
    metrics = {"image_auroc": image_auroc, "pixel_auroc": pixel_auroc}
    values = {name: float(metric.compute()) for name, metric in metrics.items() if metric.update_called}
    return {name: value for name, value in values.items() if not np.isnan(value)}
