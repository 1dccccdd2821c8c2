"""What a sink is: something that is made of judged images."""

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

_PICTURE = ".jpg"  # of heatmaps/


@dataclass(frozen=True)
class Stage:
    """A test or a prediction that begins."""

    directory: Path  # where files go
    samples: Sequence[Sample]  # of the split, of all processes
    decision: Decision | None
    method: str  # the class's name
    predicting: bool = False
    folder: Path | None = None  # of the images to predict
    rank: int = 0  # of this process
    world_size: int = 1
    device: str = ""  # the accelerator's name
    loggers: Sequence[Any] = ()
    step: int = 0  # of the training, for loggers
    done: Mapping[str, float] = field(default_factory=dict)  # scores of an interrupted run, by image: not judged again

    @property
    def first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    @cached_property
    def names(self) -> dict[str, str]:
        """What the picture of each image is called, without suffix, by the image's path."""
        return picture_names(self.samples)

    def picture(self, image: Path | str) -> Path:
        """Where the heatmap of an image is."""
        return self.directory / "heatmaps" / f"{self.names[str(image)]}{_PICTURE}"


class Sink:
    """Something that is made of judged images: pictures, tables, a page. A subclass writes what it needs."""

    def claim(
        self, home: Path, folder: Path | None, samples: Sequence[Sample], weights: str | None
    ) -> tuple[Path, dict[str, float]] | None:
        """Say where predictions go, and which images of an interrupted prediction need not be judged again, with their
        scores. The first process calls it before a prediction. None: this sink does not care."""
        return None

    def begin(self, stage: Stage) -> None:
        """A test or a prediction begins; every process calls it."""

    def image(self, judged: Judged) -> None:
        """An image was judged. Threads call this, several at a time, in any order."""

    def finish(self, results: Results | None) -> None:
        """All images were judged; every process calls it. `results`: of a test."""

    def give_up(self) -> None:
        """The test or prediction failed: close what is open."""
