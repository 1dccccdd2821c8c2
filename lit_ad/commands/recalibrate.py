"""`lit-ad recalibrate`."""

import dataclasses
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from lit_ad.batch import Sample, list_repeated
from lit_ad.checkpoint import read_checkpoint, write_checkpoint
from lit_ad.commands.detector_argument import require_detector
from lit_ad.commands.own_method import import_own_method
from lit_ad.commands.trained_images import leave_out_trained, refuse_trained
from lit_ad.counts import format_count
from lit_ad.data.sources.images import list_and_tell
from lit_ad.data.sources.journal import PICTURES, Journal, is_journal
from lit_ad.detector.card import read_card
from lit_ad.detector.decision import NO_DECISION, Decision
from lit_ad.detector.decision_keys import DecisionKeys, DecisionSettings
from lit_ad.detector.detector import Detector
from lit_ad.detector.far_above import describe_far_above
from lit_ad.detector.guarantee import describe_guarantee, describe_rate, list_warnings
from lit_ad.detector.held_out import HeldOutImages, join_held
from lit_ad.detector.pixel_guarantee import describe_pixel_guarantee
from lit_ad.detector.pixel_rule import CleanUpKey, PixelKind
from lit_ad.errors import UserError
from lit_ad.files import atomic_write, check_writable, find_free_path
from lit_ad.names import tell


def recalibrate(
    run: Path | None = None,
    /,
    ckpt_path: Path | None = None,
    nominal: Path | None = None,
    false_alarm: float | None = None,
    threshold: float | None = None,
    pixel_threshold: float | None = None,
    category: str | None = None,
    output: Path | None = None,
    weights: Path | None = None,
    replace: bool = False,
    pixel: PixelKind | None = None,
    pixel_rate: float | None = None,
    area: int | None = None,
    clean_up: CleanUpKey | None = None,
    confidence: float | None = None,
    device: str = "cpu",
) -> None:
    """Change the thresholds of a detector without training: from more good images, for another rate, or by hand.

    Write a new file with the same network and another decision. A threshold set by hand replaces the one that a rate
    gives, until recalibrate is called with other images or a rate. The command prints which p-value and which rate
    among the held-out images the threshold stands for.

    Args:
        run: RUN, a run's directory, whose best checkpoint is used; a checkpoint; or an exported file.
        ckpt_path: Another way to give the run or the file.
        nominal: A folder of good images that the model was not trained on; they join those held out in training. Or DIR
            of `lit-ad serve MODEL --journal DIR`: the images of its random sample that were labelled good.
        false_alarm: The rate of nominal images that may be called anomalous. None: as before.
        confidence: The confidence, such as 0.95, with which this one detector keeps that rate. 0: none is asked for,
            and the rate holds on average. None: as before.
        threshold: The threshold of image scores, set by hand.
        pixel_threshold: The threshold of anomaly maps, set by hand.
        category: For a model of several categories: the category of the images, or of the threshold. None: thresholds
            are set for all categories.
        output: The new file. None: NAME-recalibrated beside the old one, with a number if that file exists.
        weights: The teacher's weights, if a checkpoint does not find them.
        replace: Let the images replace those held out in training, on which the epoch may have been chosen.
        pixel: Which pixels are anomalous: `decision.pixel` of a training. None: as before.
        pixel_rate: The rate of nominal pixels, for --pixel pixel. None: as before.
        area: Pixels of the smallest region that counts, for --pixel region. To change it, give --nominal too.
        clean_up: Grow anomalous pixels to the outline of a defect: `decision.clean_up` of a training. None: as before.
        device: cpu, or the runtime's name of another device, such as cuda: it judges the images.

    Raises:
        UserError: Nothing is to change, images or held-out scores are missing, or the output exists.
    """
    ckpt_path = require_detector("recalibrate", run, ckpt_path)
    output = output or find_free_path(ckpt_path.with_name(f"{ckpt_path.stem}-recalibrated{ckpt_path.suffix}"))
    if output.suffix != ckpt_path.suffix:
        raise UserError(f"--output {output} must end in {ckpt_path.suffix}, as {ckpt_path} does")
    if output.absolute() == ckpt_path.absolute():
        raise UserError(f"{output} is the file itself: give another --output")
    if output.exists():
        raise UserError(f"{output} exists already: give another --output, or remove it")
    if replace and nominal is None:
        raise UserError("--replace needs good images that replace the old ones: give --nominal FOLDER")
    if (nominal, false_alarm, threshold, pixel_threshold, pixel, pixel_rate, area, clean_up, confidence) == (None,) * 9:
        raise UserError(
            "nothing to change: give --nominal FOLDER, --false_alarm, --threshold, --pixel_threshold or --pixel"
        )
    check_writable(output.parent, "--output")  # now, because judging the images takes minutes
    if nominal is None and ckpt_path.suffix == ".ckpt":
        detector, before = None, _read_decision(ckpt_path)
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", re.escape(NO_DECISION))  # this command sets a decision
            import_own_method(ckpt_path)
            detector = Detector.load(ckpt_path, weights, device)
        before = detector.card.decision
    known = [] if before is None else list(before.scores)
    keys = DecisionKeys(false_alarm, None, pixel, pixel_rate, area, clean_up)
    name = category if category is not None else known[0] if len(known) == 1 else None
    if name is not None and known and name not in known:
        raise UserError(f"this model has no category {name}: give --category as one of {', '.join(known)}")
    if nominal is not None:
        if name is None and known:
            raise UserError(f"this model is for {', '.join(known)}: name the category of the images with --category")
        name = name or ""
        assert detector is not None
        if is_journal(nominal):
            samples = leave_out_trained(ckpt_path, _list_confirmed(nominal, name, alone=len(known) < 2))
        else:
            if nominal.name == PICTURES and is_journal(nominal.parent):
                raise UserError(
                    f"{nominal} has pictures of all kinds, many kept for their scores: give the journal, --nominal "
                    f"{nominal.parent}, whose labels tell the good images of the random sample"
                )
            samples = list_and_tell(nominal)
            refuse_trained(ckpt_path, samples)
        images = [sample.image for sample in samples]
        after = refit_decision(detector, images, name, keys, add=not replace).without_threshold(name)
        if replace or before is None:  # nothing else was chosen on these images
            also_chosen, folds = {**after.also_chosen, name: []}, {**after.folds, name: []}
            repeated = [each for each in after.repeated if each != name]
            after = dataclasses.replace(after, also_chosen=also_chosen, repeated=repeated, folds=folds)
        if list_repeated(samples):
            after = dataclasses.replace(after, repeated=sorted({*after.repeated, name}))
    elif before is None:
        raise UserError(f"{ckpt_path} was never validated, so it has no held-out scores: give --nominal FOLDER")
    else:
        after = (before if false_alarm is None else before.without_threshold(name)).with_keys(keys)
    if (pixel, pixel_rate, area) != (None,) * 3:
        after = dataclasses.replace(after, pixels_by_hand={})  # one rule holds for all categories
    if confidence is not None:
        after = after.without_threshold(name).with_keys(DecisionKeys(confidence=confidence))
    if threshold is not None:
        after = after.with_threshold(threshold, name)
    if pixel_threshold is not None:
        after = after.with_threshold(pixel_threshold, name, pixels=True)
    for warning in [*list_warnings(after), *describe_far_above(after)]:
        print(f"Warning: {warning}")
    _write_decision(ckpt_path, output, after, detector)
    _print_decision(before, after, name)
    print(f"Written: {output}. {ckpt_path} stays as it is")


def _list_confirmed(folder: Path, category: str, alone: bool) -> list[Sample]:
    """List the good images of a journal's random sample that are of a category, and print what is left out.

    Args:
        folder: The journal's folder.
        category: The category. "": all images are taken.
        alone: Whether the detector has no other category, so that images without a category are of this one.

    Raises:
        UserError: There is no such image.
    """
    source = Journal(folder)
    for remark in source.remarks():
        tell(remark)
    good = source.list_good()
    samples = [
        sample for sample in good if not category or sample.category in ([category, ""] if alone else [category])
    ]
    if count := len(good) - len(samples):
        tell(f"{format_count(count, 'good image')} of the random sample of another category, or of none: left out")
    if not samples:
        raise UserError(f"no image of {category} in the random sample of {folder} is labelled good: label some")
    return samples


def _read_decision(checkpoint: Path) -> Decision | None:
    """Read the decision in a checkpoint, without its network. Raises UserError if the file is no checkpoint."""
    return read_card(read_checkpoint(checkpoint).get("lit_ad"), checkpoint).decision


def _write_decision(file: Path, output: Path, decision: Decision, detector: Detector | None) -> None:
    """Write a copy of a detector's file with another decision, and beside an exported file its example program.

    Args:
        file: The checkpoint or exported file.
        output: The file to write.
        decision: The new decision.
        detector: The loaded file; an exported file needs it, for its card.
    """
    if detector is None or file.suffix == ".ckpt":
        checkpoint = read_checkpoint(file)
        checkpoint["lit_ad"]["decision"] = decision.to_dict()
        write_checkpoint(checkpoint, output)
        return
    from lit_ad.deploy.example import make_example, name_example
    from lit_ad.deploy.exported_file import rewrite

    card = dataclasses.replace(detector.card, decision=decision)
    rewrite(file, output, card)
    with atomic_write(output.with_name(name_example(output))) as temporary:
        temporary.write_text(make_example(output, card), encoding="utf-8")


def _print_decision(before: Decision | None, after: Decision, category: str | None) -> None:
    """Print the thresholds of a category, or of all if it is None, before and after, and what they promise."""
    for name in after.scores if category is None else [category]:
        place = f" of {name}" if len(after.scores) > 1 else ""
        old = "none" if before is None or name not in before.scores else f"{before.threshold(name):.6g}"
        count = format_count(len(after.scores[name]), "held-out image")
        print(f"{count}{place}, false-alarm rate {describe_rate(after, name)}")
        print(f"threshold{place} {after.operating_point(name)}; before: {old}")
        pixels = after.pixel_operating_point(name)
        if pixels is not None:
            print(f"pixel threshold{place} {pixels}")
        print(f"{describe_guarantee(after, name)} {describe_pixel_guarantee(after, name)}".rstrip())


def refit_decision(
    detector: Detector,
    images: list[Path],
    category: str,
    keys: DecisionKeys,
    add: bool = False,
) -> Decision:
    """Judge images, and return the detector's decision with their scores as held-out scores of a category.

    Thresholds set by hand stay.

    Args:
        detector: The detector that judges the images.
        images: Nominal images that the detector was not trained on.
        category: The category of the images.
        keys: The changed keys of the decision, such as another rate or rule for pixels.
        add: Whether the scores join the category's earlier ones. Otherwise they replace them. An image whose score is
            among the earlier ones counts once.
    """
    before = detector.card.decision
    settings = (DecisionSettings() if before is None else before.settings).with_keys(keys)
    rule = settings.pixel_rule
    known = before.scores.get(category, np.zeros(0)) if add and before is not None else np.zeros(0)
    seen, repeated = HeldOutImages(rule.area), 0
    for image, detection in zip(images, detector.stream(images), strict=True):
        if np.isclose(known, detection.score, rtol=1e-6, atol=0).any():
            repeated += 1
        else:
            seen.add(category, detection.score, detection.anomaly_map, detection.roi, str(image))
    if repeated:
        print(f"{format_count(repeated, 'image has', 'images have')} the score of an earlier held-out image: left out")
    values: Any = vars(settings)
    if before is None:
        return Decision(**seen.held, **values)
    earlier = before.held
    if rule.area != before.pixel_rule.area:
        earlier["peaks"] = {}
    own = {name: {category: kept[category]} if category in kept else {} for name, kept in earlier.items()}
    new = join_held([own, seen.held]) if add else seen.held
    held: Any = {
        name: {**{c: v for c, v in kept.items() if c != category}, **new[name]} for name, kept in earlier.items()
    }
    return dataclasses.replace(before, **held, **values)
