"""Which images a detector was trained on: they score lower than new ones, so that no threshold may come from them."""

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
    """Refuse images that the model was trained on, and warn of those that may be copies of them.

    A checkpoint knows its images by their path below the folder of the data set and by their size in bytes. An exported
    file does not: that of a run is looked up in the run's checkpoint.

    Raises:
        UserError: Images lie where they were in training.
    """
    record = _record_of(file)
    if record is None:
        tell(f"Whether {file} was trained on these images is not known: it must not have been")
        return
    root, trained = Path(record["root"]), set(record["trained"])
    there = [sample for sample in samples if sample.image.is_relative_to(root)]
    known = [s for s, number in zip(there, identities(there, root), strict=True) if number in trained]
    every = format_count(len(samples), "image")
    if known:
        raise UserError(
            f"{len(known)} of {every} trained this model, such as {known[0].image}: they score lower than new ones, "
            "and the false-alarm rate would not be kept. Give good images that it has not seen"
        )
    copies = [s for s in samples if not s.image.is_relative_to(root) and _may_be_trained(s, trained)]
    if copies:
        tell(
            f"Warning: {len(copies)} of {every} may be copies of some that trained this model, by name and size, such "
            f"as {copies[0].image}: then the false-alarm rate is not kept"
        )


def _may_be_trained(sample: Sample, trained: set[int]) -> bool:
    """Whether an image, by one of the ends of its path and its size, is one of those."""
    return any(identities([sample], folder)[0] in trained for folder in sample.image.parents)


def _record_of(file: Path) -> dict[str, Any] | None:
    """What the checkpoint of a detector says of its training's images, or None if it says nothing."""
    files = [file] if file.suffix == ".ckpt" else [file.parent.parent / name for name in CHECKPOINTS]
    checkpoint = next((each for each in files if each.is_file()), None)
    record = None if checkpoint is None else read_checkpoint(checkpoint).get("AnomalyDataModule")
    return record if record and "trained" in record else None
