"""`lit-ad recalibrate`."""

import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

from lit_ad.checkpoint import read_checkpoint, write_checkpoint
from lit_ad.data.sources.images import list_and_tell
from lit_ad.detector.decision import HELD, NO_DECISION, Decision
from lit_ad.detector.detector import Detector
from lit_ad.errors import UserError
from lit_ad.image.roi import counted


def recalibrate(
    ckpt_path: Path,
    nominal: Path,
    false_alarm: float | None = None,
    category: str | None = None,
    output: Path | None = None,
    weights: Path | None = None,
) -> None:
    """Compute new thresholds from more good images, without training.

    Write a new file with the same network, whose decision is made from the images of a folder.

    Args:
        ckpt_path: A checkpoint, or an exported file.
        nominal: Folder of good images that the model was not trained on; they replace those held out in training.
        false_alarm: The rate of nominal images that may be called anomalous. None: as it was.
        category: Of a model for several: whose images these are.
        output: The new file. None: NAME-recalibrated beside the old one.
        weights: The teacher's, if a checkpoint does not find them.
    """
    output = output or ckpt_path.with_name(f"{ckpt_path.stem}-recalibrated{ckpt_path.suffix}")
    if output.suffix != ckpt_path.suffix:
        raise UserError(f"{output} should end in {ckpt_path.suffix}, as {ckpt_path} does")
    if output.absolute() == ckpt_path.absolute():
        raise UserError(f"{output} is the file itself: give another --output")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", re.escape(NO_DECISION))  # it is about to get one
        detector = Detector.load(ckpt_path, weights)
    before = detector.card.decision
    known = [] if before is None else list(before.scores)
    if category is None and len(known) > 1:
        raise UserError(f"this model is for {', '.join(known)}: say whose images these are by --category")
    name = category if category is not None else known[0] if known else ""
    after = refitted(detector, [sample.image for sample in list_and_tell(nominal)], name, false_alarm)
    for warning in after.warnings():
        print(f"Warning: {warning}")
    if ckpt_path.suffix == ".ckpt":
        checkpoint = read_checkpoint(ckpt_path)
        checkpoint["lit_ad"]["decision"] = after.to_dict()
        write_checkpoint(checkpoint, output)
    else:
        from lit_ad.deploy.export import rewrite

        rewrite(ckpt_path, output, replace(detector.card, decision=after))
    old = "none" if before is None else f"{before.threshold(name):.6g}"
    print(f"{len(after.scores[name])} images, false-alarm rate {after.false_alarm:g}")
    print(f"threshold {after.threshold(name):.6g}, before {old}: {output}")


def refitted(detector: Detector, images: list[Path], category: str, false_alarm: float | None) -> Decision:
    """The decision with the images in place of the category's held-out ones."""
    scores, maxima, medians = [], [], []
    for found in detector.stream(images):
        scores.append(found.score)
        if found.anomaly_map is not None:
            of_map = counted(found.anomaly_map, found.roi)
            maxima.append(float(of_map.max()))
            medians.append(float(np.median(of_map)))
    before = detector.card.decision
    rate = false_alarm or (0.01 if before is None else before.false_alarm)
    held = {name: {} if before is None else dict(getattr(before, name)) for name in HELD}
    for name, values in zip(HELD, (scores, maxima, medians), strict=True):
        if values:
            held[name][category] = np.array(values)
    return Decision(**held, false_alarm=rate) if before is None else replace(before, **held, false_alarm=rate)
