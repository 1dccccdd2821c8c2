"""`lit-ad predict`."""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lit_ad.batch import Sample
from lit_ad.commands.lazy_import import import_function
from lit_ad.commands.own_method import import_own_method
from lit_ad.commands.signature import Parser
from lit_ad.data.sources.images import Images
from lit_ad.detector.decision_keys import DecisionKeys
from lit_ad.detector.detection import Detection
from lit_ad.detector.detector import TIMEOUT, Detector
from lit_ad.detector.guarantee import list_notes
from lit_ad.detector.run_files import CONFIG, EXPORTED, find_detector, find_run
from lit_ad.detector.scoring import Judgement
from lit_ad.detector.stream import run_in_order
from lit_ad.errors import UserError
from lit_ad.evaluation.judged import Judged
from lit_ad.evaluation.sinks.heatmaps import Heatmaps
from lit_ad.evaluation.sinks.predictions import Predictions
from lit_ad.evaluation.sinks.sink import Stage
from lit_ad.files import resolve_path
from lit_ad.image.view import pad_to_content, visible_box
from lit_ad.lightning_cli.jsonargparse_workarounds import allow_file_names
from lit_ad.lightning_cli.run_words import has_option, take_leading_words
from lit_ad.names import tell


def predict(arguments: list[str]) -> None:
    """Judge images: LightningCLI does it for a run, a Detector for an exported file or a checkpoint outside of a run.

    Args:
        arguments: The words after `lit-ad predict`.
    """
    words = take_leading_words(arguments)
    if words and _stands_alone(words[0], arguments):
        _predict_alone(arguments)
        return
    import_function("lightning_cli.cli.main")(arguments)  # imports all of training, which a Detector does not need


def _stands_alone(given: str, arguments: Sequence[str]) -> bool:
    """Return whether a detector has no configuration: it is an exported file, or a checkpoint outside of a run.

    Raises UserError if there is no such detector.
    """
    if has_option(arguments, "--config", "-c", "--ckpt_path"):
        return False
    file = find_detector(given)
    return file.suffix in EXPORTED or not ((find_run(file) or file.parent) / CONFIG).is_file()


def _predict_alone(arguments: Sequence[str]) -> None:
    """Judge images by a Detector, and write the same files as predict of a run, to FOLDER_OF_FILE/predictions.

    Raises:
        UserError: No images are given, or an argument is wrong.
    """
    allow_file_names()
    if len(take_leading_words(arguments)) == 1 and not has_option(arguments, "-h", "--help"):
        raise UserError(f"predict needs images: lit-ad predict {arguments[0]} IMAGES")
    parser = _make_parser()
    parsed = parser.parse_args(list(arguments))
    objects = parser.instantiate(parsed)
    file, folder = find_detector(parsed.file), resolve_path(parsed.images)
    source = Images(folder)
    samples = source.samples()
    import_own_method(file)
    detector = Detector.load(file, parsed.weights, parsed.device, parsed.verify)
    decision = detector.card.decision
    if decision is not None:
        decision = decision.with_keys(objects.decision)
        detector = Detector(detector.network, replace(detector.card, decision=decision), detector.network_for)
    for line in list_notes(decision):
        tell(line)
    predictions: Predictions = objects.predictions
    with file.open("rb") as stream:
        weights = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
    directory, done = predictions.claim(file.parent, folder, samples, weights)
    method = detector.card.method.rpartition(".")[2]
    stage = Stage(directory, samples, decision, method, predicting=True, folder=folder, device=parsed.device, done=done)
    judge_all(detector, stage, [objects.heatmaps, predictions])
    for line in [*predictions.summary(), *(f"In {folder}: {remark}" for remark in source.remarks())]:
        tell(line)
    if predictions.failed:
        sys.exit(1)


def _make_parser() -> Parser:
    """Return the parser: its keys are those of predict of a run, and the device of the detector."""
    about = "Judge images by an exported file or a checkpoint."
    parser = Parser(prog="lit-ad predict", description=about, allow_abbrev=False)
    parser.add_argument("file", type=str, help="An exported file or a checkpoint.")
    parser.add_argument("images", type=str, help="A folder of images, or one image.")
    parser.add_class_arguments(Heatmaps, "heatmaps")
    parser.add_class_arguments(Predictions, "predictions")
    parser.add_class_arguments(DecisionKeys, "decision")
    named = "The device: cpu, or another one by the runtime's name for it, such as cuda or GPU."
    parser.add_argument("--device", type=str, default="cpu", help=named)
    parser.add_argument(
        "--weights", type=Path | None, default=None, help="The teacher's weights, if a checkpoint does not find them."
    )
    verified = "Whether to compare an exported file with its checkpoint first, as `lit-ad verify` does."
    parser.add_argument("--verify", type=bool, default=True, help=verified)
    return parser


def judge_all(detector: Detector, stage: Stage, sinks: Sequence[Heatmaps | Predictions]) -> None:
    """Judge the stage's images that are not done, and hand each to the sinks; a failed one with the reason."""
    left = [i for i, sample in enumerate(stage.samples) if str(sample.image) not in stage.done]

    def work(group: list[int], first: int) -> list[None]:
        for index in group:
            judged = _judge_sample(detector.shared, stage.samples[index], index)
            for sink in sinks:
                sink.image(judged)
        return [None] * len(group)

    for sink in sinks:
        sink.begin(stage)
    try:
        show_progress = partial(tqdm, desc="Judging images", total=len(left), leave=False, disable=None)
        for _ in show_progress(run_in_order(work, iter(left), 1, TIMEOUT, None)):
            pass
    except BaseException:
        for sink in sinks:
            sink.give_up()
        raise
    for sink in sinks:
        sink.finish(None)


def _judge_sample(detector: Detector, sample: Sample, index: int) -> Judged:
    """Judge a sample. If that fails, return a blank image, with the reason in its sample."""
    view, decision = detector.card.view, detector.card.decision
    known = decision is not None and sample.category in decision.scores
    try:
        detection = detector(sample.image, sample.category if known else None)
    except UserError as error:
        blank = view.blank()
        size = (blank.shape[0], blank.shape[1])
        sample = sample._replace(error=str(error))
        return Judged(sample, index, size, blank, Judgement(None, float("nan"), (0, 0, 0, 0)))
    return _to_judged(detection, sample, index)


def _to_judged(detection: Detection, sample: Sample, index: int) -> Judged:
    """Convert a Detector's detection to the Judged that a run's prediction makes."""
    decision, category, roi = detection.decision, sample.category, detection.roi
    pixels, box = detection.network_input, detection.box
    assert pixels is not None, "a Detector sets them"
    top, left, bottom, right = visible_box(box, (pixels.shape[0], pixels.shape[1]))
    known: dict[str, Any] = {}
    if decision is not None:
        known = {
            "threshold": decision.threshold(category),
            "p_value": detection.p_value,
            "marking": decision.marking(category),
            "colour_range": decision.colour_range(category),
            "verdict": decision.verdict(detection.score, category),
            "mm_per_pixel": detection.mm_per_pixel,
        }
    size = (detection.image.shape[0], detection.image.shape[1])
    content = pad_to_content(pixels[top:bottom, left:right], box, 0)
    judgement = Judgement(detection.network_map, detection.score, detection.box)
    return Judged(sample, index, size, content, judgement, None, roi, **known)
