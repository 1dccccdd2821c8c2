"""Sinks: classes that get every judged image and write something from it, such as heatmaps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lit_ad.batch import Sample
from lit_ad.detector.decision import Decision
from lit_ad.evaluation.judged import Judged
from lit_ad.evaluation.picture_names import picture_names
from lit_ad.evaluation.results import Results

_PICTURE = ".jpg"  # suffix of the files in heatmaps/


@dataclass(frozen=True)
class Stage:
    """The facts about a test or a prediction that its sinks need at the start."""

    directory: Path  # directory for the files
    samples: Sequence[Sample]  # all samples of the split, of all processes
    decision: Decision | None
    method: str  # name of the method's class
    predicting: bool = False  # a prediction, not a test
    folder: Path | None = None  # folder of the images to predict
    rank: int = 0  # rank of this process
    world_size: int = 1  # number of processes
    device: str = ""  # name of the accelerator; "" without one
    loggers: Sequence[Any] = ()
    step: int = 0  # step of the training, for loggers
    done: Mapping[str, float] = field(default_factory=dict)  # image -> score by an interrupted run; not judged again

    @property
    def first(self) -> bool:
        """Whether this is the first process, which writes the files of all."""
        return self.rank == 0

    @cached_property
    def names(self) -> dict[str, str]:
        """The name, without suffix, of the files of each image, by the image's path."""
        return picture_names(self.samples)

    def picture(self, image: Path | str) -> Path:
        """Return the path of an image's heatmap."""
        return self.directory / "heatmaps" / f"{self.names[str(image)]}{_PICTURE}"


class Sink:
    """Gets every judged image, and writes pictures, a table or a page. A subclass overrides what it needs."""

    def claim(
        self, home: Path, folder: Path | None, samples: Sequence[Sample], weights: str | None
    ) -> tuple[Path, dict[str, float]] | None:
        """Choose the directory of a prediction. The first process calls it before a prediction.

        Args:
            home: The run's directory.
            folder: The folder of the images.
            samples: The images.
            weights: Fingerprint of the model's weights. None: not known yet.

        Returns:
            The directory, and the scores of images that an interrupted prediction has judged; None if this sink has no
            preference.
        """
        return None

    def begin(self, stage: Stage) -> None:
        """Prepare for a test or a prediction. Every process calls it."""

    def image(self, judged: Judged) -> None:
        """Take a judged image. Several threads call it at a time, in any order."""

    def finish(self, results: Results | None) -> None:
        """Write the rest after the last image. Every process calls it. `results`: of a test; None for a prediction."""

    def give_up(self) -> None:
        """Close open files after a failed test or prediction."""
