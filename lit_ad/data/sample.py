"""What a source lists: one Sample per image, and the checks every source shares."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
Split = Literal["train", "test", "predict"]


@dataclass(frozen=True)
class Sample:
    image: Path
    label: int  # 0 nominal, 1 anomalous, -1 unknown (predict)
    mask: Path | None = None  # an anomalous image without one has no pixel truth, which is not "no defect"
    category: str = ""
    defect: str = "good"  # the defect type, "good" for nominal images
    split: Split = "train"


class Source(Protocol):
    """Anything that lists the samples of a data set, train and test together, sorted by split and path."""

    def samples(self) -> list[Sample]: ...
