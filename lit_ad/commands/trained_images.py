"""Refuse to set thresholds from images on which the detector was trained: such images score lower than new ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_ad.batch import Sample
from lit_ad.checkpoint import read_checkpoint
from lit_ad.counts import format_count
from lit_ad.data.record import identities
from lit_ad.detector.run_files import CHECKPOINTS
from lit_ad.errors import UserError
from lit_ad.names import tell


def refuse_trained(file: Path, samples: Sequence[Sample]) -> None:
    """Refuse images that the model was trained on, and warn of images that may be copies of them.

    A checkpoint identifies its training images by their path below the data set's folder and by their size in bytes. An
    exported file does not record them, so the checkpoint of its run is read.

    Raises:
        UserError: The model was trained on some of the images.
    """
    record = _read_record(file)
    if record is None:
        return
    root, trained = Path(record["root"]), set(record["trained"])
    inside = [sample for sample in samples if sample.image.is_relative_to(root)]
    known = [s for s, number in zip(inside, identities(inside, root), strict=True) if number in trained]
    total = format_count(len(samples), "image")
    if known:
        raise UserError(
            f"this model was trained on {len(known)} of {total}, such as {known[0].image}: they score lower than "
            "new ones, so the false-alarm rate would not be kept. Give good images that it has not seen"
        )
    copies = [s for s in samples if not s.image.is_relative_to(root) and _may_be_trained(s, trained)]
    if copies:
        tell(
            f"Warning: {len(copies)} of {total} have the name and size of images on which this model was trained, "
            f"such as {copies[0].image}: if they are copies, the false-alarm rate is not kept"
        )


def leave_out_trained(file: Path, samples: Sequence[Sample]) -> list[Sample]:
    """Return the images of a journal on which the model was not trained. Print how many are left out.

    An image counts as trained if a training image had its size, and a path that ends like its own.

    Raises:
        UserError: The model was trained on all of the images.
    """
    record = _read_record(file)
    if record is None:
        return list(samples)
    trained = set(record["trained"])
    others = [sample for sample in samples if not _may_be_trained(sample, trained)]
    if not others:
        raise UserError(f"this model was trained on all {len(samples)} images: label more of the random sample good")
    if count := len(samples) - len(others):
        tell(f"{format_count(count, 'image')} on which this model was trained: left out, since they score lower")
    return others


def _may_be_trained(sample: Sample, trained: set[int]) -> bool:
    """Return whether an image has the size of a training image, and its path ends like that image's path."""
    return any(identities([sample], folder)[0] in trained for folder in sample.image.parents)


def _read_record(file: Path) -> dict[str, Any] | None:
    """Return the record of training images in the checkpoint of a detector. If there is none, print so, and return
    None."""
    files = [file] if file.suffix == ".ckpt" else [file.parent.parent / name for name in CHECKPOINTS]
    checkpoint = next((each for each in files if each.is_file()), None)
    record = None if checkpoint is None else read_checkpoint(checkpoint).get("AnomalyDataModule")
    if record and "trained" in record:
        return dict(record)
    tell(f"It is unknown on which images {file} was trained: make sure that it was on none of these")
    return None
