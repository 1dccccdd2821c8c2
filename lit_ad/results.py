"""What a test found: every number, curve and image score, gathered from all processes, to JSON and back."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray

from lit_ad.errors import UserError
from lit_ad.files import atomic_write

Row = dict[str, float]
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]  # points: false positive rate, and what is gained

COLUMNS = ("image_auroc", "image_average_precision", "image_f1_max", "pixel_auroc", "pixel_f1_max", "aupro_30")


@dataclass(frozen=True)
class ImageResult:
    """One tested image."""

    path: str
    category: str
    defect: str
    label: int  # 0 nominal, 1 anomalous
    score: float
    threshold: float | None = None  # of its category, from nominal held-out images
    p_value: float | None = None

    @property
    def anomalous(self) -> bool | None:
        """The verdict, if there is a threshold."""
        return None if self.threshold is None else self.score > self.threshold

    @property
    def wrong_by(self) -> float:
        """How far the score lies on the wrong side of the threshold; 0 or less of a right verdict, or of none."""
        if self.threshold is None:
            return 0.0
        return self.threshold - self.score if self.label else self.score - self.threshold

    @property
    def missed(self) -> bool:
        """Whether the verdict is wrong."""
        return self.anomalous is not None and self.anomalous != bool(self.label)


@dataclass
class Results:
    """Metrics by row ("overall", a category, a defect type), curves over all images, and each image's score."""

    rows: dict[str, Row]
    images: list[ImageResult]
    curves: dict[str, Curve] = field(default_factory=dict)
    threshold: float | None = None  # of the image score, all categories together
    pixel_threshold: float | None = None
    false_alarm: float | None = None  # the rate that both were set for

    def misses(self, count: int) -> list[ImageResult]:
        """The images with a wrong verdict, the worst first."""
        return sorted((image for image in self.images if image.missed), key=lambda image: -image.wrong_by)[:count]

    def table(self) -> str:
        """The rows as aligned text, the metrics people quote only; all are in the file."""
        width = max(len(row) for row in self.rows)
        lines = [" " * width + "  " + "  ".join(COLUMNS)]
        for row, values in self.rows.items():
            cells = [f"{values.get(name, math.nan):.4f}".replace("nan", "") for name in COLUMNS]
            aligned = [cell.rjust(len(name)) for cell, name in zip(cells, COLUMNS, strict=True)]
            lines.append(row.ljust(width) + "  " + "  ".join(aligned))
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Write it as JSON; NaN, which JSON has not, as null. Raises UserError if it cannot be written."""
        values = {
            "false_alarm": self.false_alarm,
            "threshold": self.threshold,
            "pixel_threshold": self.pixel_threshold,
            "rows": self.rows,
            "images": [asdict(image) for image in self.images],
            "curves": {name: [points.tolist() for points in curve] for name, curve in self.curves.items()},
        }
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(without_nan(values), indent=1, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Results":
        """The inverse of `save`. Raises UserError if the file is not one of these."""
        try:
            values = json.loads(path.read_text())
            rows = {row: {name: with_nan(v) for name, v in metrics.items()} for row, metrics in values["rows"].items()}
            images = [ImageResult(**image) for image in values["images"]]
            curves = {name: (np.array(x), np.array(y)) for name, (x, y) in values["curves"].items()}
            decided = (values["threshold"], values["pixel_threshold"], values["false_alarm"])
            return cls(rows, images, curves, *decided)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} holds no results of a test: {type(error).__name__} {error}") from error


def gather(items: list[Any]) -> list[Any]:
    """The items of all processes, in order of rank; every process must call it."""
    if not dist.is_available() or not dist.is_initialized():
        return items
    shares: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(shares, items)
    return [item for share in shares for item in share]


def picture_name(path: str, category: str, labelled: bool, suffix: str) -> PurePath:
    """CATEGORY/FOLDER/NAME of an image's picture, where its folder is named after the defect type, "good", or a class.

    An image to predict keeps its folder below the one given, which is its category.
    """
    image = Path(path)
    return PurePath(category, image.parent.name if labelled else "", image.stem + suffix)


def without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def with_nan(value: float | None) -> float:
    return math.nan if value is None else value
