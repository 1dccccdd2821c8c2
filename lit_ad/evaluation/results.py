"""The results of a test: metrics, curves and image scores of all processes. They are saved as JSON and read again."""

import csv
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from lit_ad.errors import UserError
from lit_ad.files import atomic_write
from lit_ad.names import open_table, printable

Row = dict[str, float]
# x of the points, such as the false positive rate, and y, such as the recall
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]

POOLED, MEAN = "pooled", "mean"  # no other row has such a name: the others have a slash
COLUMNS = (
    *("image_auroc", "image_average_precision", "image_f1_max", "pixel_auroc", "pixel_f1_max", "aupro_30"),
    *("aupimo", "instance_recall", "instance_precision"),
)
SAMPLE_AUROC = "sample_auroc"  # only if the test has several images of an item
VERDICTS = {"false_alarms": ("false_alarm_rate", "nominal_images"), "misses": ("miss_rate", "anomalous_images")}


@dataclass(frozen=True)
class ImageResult:
    """The result of one tested image."""

    path: str
    category: str
    defect: str
    label: int  # 0 nominal, 1 anomalous
    score: float
    threshold: float | None = None  # the threshold of its category
    p_value: float | None = None
    item: str = ""  # the item in its category of which it is one view or part

    @property
    def anomalous(self) -> bool | None:
        """The verdict, if there is a threshold."""
        return None if self.threshold is None else self.score > self.threshold

    @property
    def wrong_by(self) -> float:
        """The distance of the score to the threshold if the verdict is wrong; otherwise 0 or less."""
        if self.threshold is None:
            return 0.0
        return self.threshold - self.score if self.label else self.score - self.threshold

    @property
    def is_wrong(self) -> bool:
        """Whether the verdict is wrong."""
        return self.anomalous is not None and self.anomalous != bool(self.label)


@dataclass
class Official:
    """The official figures of a data set: a row for each category, and "mean" if there are several."""

    name: str  # name of the data set
    metrics: dict[str, str]  # metric -> a sentence that says how it is computed
    headline: list[str]  # metrics that are printed
    rows: dict[str, Row]
    remarks: list[str]  # sentences that say what is left out, and why

    def last(self) -> Row:
        """Return the figures of the data set: those of its only category, or the mean over its categories."""
        return list(self.rows.values())[-1] if self.rows else {}

    def table(self) -> str:
        """Return the headline metrics as an aligned table, with their rules and the remarks below it."""
        titles = [key for name in self.headline for key in self.last() if _is_of(key, name)]
        lines = [["", *titles]]
        for row, values in self.rows.items():
            lines.append([printable(row), *("" if math.isnan(values[key]) else f"{values[key]:.4f}" for key in titles)])
        figures = [f"{name}: {self.metrics[name]}" for name in self.headline] if self.rows else []
        return "\n".join(
            [f"By the rules of {self.name}:", *([_align_columns(lines)] if self.rows else []), *figures, *self.remarks]
        )


@dataclass
class Results:
    """Metrics by row, curves over all images, and each image's score.

    The rows are "pooled", all images together; "CATEGORY/" and "mean", the mean over them, if there are several
    categories; and "CATEGORY/DEFECT", a defect type with the good images of its category.
    """

    rows: dict[str, Row]
    images: list[ImageResult]
    curves: dict[str, Curve] = field(default_factory=dict)
    threshold: float | None = None  # threshold of image scores for all categories together
    pixel_threshold: float | None = None
    false_alarm: float | None = None  # the false-alarm rate that was asked for
    maps: bool = True  # whether the method makes anomaly maps
    official: Official | None = None  # figures by the data set's own rules, if it has any
    decision: dict[str, Any] | None = None  # its thresholds and what they promise, from detector.summary
    checkpoint: str | None = None  # path of the tested checkpoint, relative to the run's directory if it lies there
    shift: dict[str, Any] | None = None  # how `lit-ad data shift` changed the test images: kind, strength and seed

    @property
    def kept_rate(self) -> float | None:
        """The false-alarm rate that the threshold really keeps. It is `false_alarm`, or a higher rate if there are too
        few held-out images for it."""
        return self.false_alarm if self.decision is None else self.decision.get("kept_rate", self.false_alarm)

    @property
    def by_hand(self) -> list[str]:
        """A line for each threshold that was set by hand."""
        return [] if self.decision is None else self.decision["by_hand"]

    def worst_wrong_verdicts(self, count: int) -> list[ImageResult]:
        """Return the `count` images with the worst wrong verdicts, the worst first."""
        return sorted((image for image in self.images if image.is_wrong), key=lambda image: -image.wrong_by)[:count]

    def table(self) -> str:
        """Return the rows as an aligned table of image metrics and, with maps, one of pixel metrics.

        They have the metrics in COLUMNS and VERDICTS; the file has all metrics. An empty cell has a letter, and a line
        below the tables says why it is empty.
        """
        notes: dict[str, str] = {}
        of_images = [name for name in COLUMNS if name.startswith("image_")]
        several = any(SAMPLE_AUROC in values for values in self.rows.values())
        tables = [self._table([*of_images, *([SAMPLE_AUROC] if several else []), *VERDICTS], notes)]
        if self.maps:
            tables.append(self._table([name for name in COLUMNS if name not in of_images], notes))
        below = [f"({letter}) {why}" for why, letter in notes.items()]
        below += [] if self.maps else ["no figures of pixels: the method gives scores only, and no anomaly maps"]
        official = [] if self.official is None else ["", self.official.table()]
        return "\n".join(["\n\n".join(tables), *below, *official])

    def _table(self, names: list[str], notes: dict[str, str]) -> str:
        """Return some columns as an aligned table. Add the reason of each empty cell, with its letter, to the notes."""
        lines = [["", *(name.replace("_", "\n") for name in names)]]  # several lines, so that the table is narrower
        for row, values in self.rows.items():
            cells = [printable(row)]
            for name in names:
                cell = format_value(values, name)
                if not cell:
                    why = self.why_empty(row, name)
                    cell = f"({notes.setdefault(why, chr(ord('a') + len(notes)))})"
                cells.append(cell)
            lines.append(cells)
        return _align_columns(lines)

    def why_empty(self, row: str, name: str) -> str:
        """Return why a row has no value of a metric."""
        values = self.rows[row]
        instances = name.startswith("instance_")
        if (name in VERDICTS and self.threshold is None) or (instances and self.maps and self.pixel_threshold is None):
            return "no threshold: no held-out image was scored by the checkpoint's weights"
        if not name.startswith(("image_", SAMPLE_AUROC, *VERDICTS)) and not self.maps:
            return "no anomaly maps: the method gives scores only"
        if row == MEAN:
            return "no mean: not every category has a value"
        if name == SAMPLE_AUROC:
            return "no sample with good images only, or none with an anomalous image"
        for count, noun in (("nominal_images", "good image"), ("anomalous_images", "anomalous image")):
            if not values.get(count) and VERDICTS.get(name, ("", count))[1] == count:
                return f"no {noun}"
        if name == "instance_precision" and values.get("anomalous_pixels"):
            return "no region above the pixel threshold"
        if name == "aupimo" and not values.get("nominal_images"):
            return "no good image"
        if not values.get("anomalous_pixels"):
            return "no anomalous pixel: masks are missing, or empty"
        return "no nominal pixel"

    def save(self, path: Path) -> None:
        """Write the results as JSON, with null for NaN. Raises UserError if the file cannot be written."""
        values = {
            "false_alarm": self.false_alarm,
            "kept_rate": self.kept_rate,
            "threshold": self.threshold,
            "pixel_threshold": self.pixel_threshold,
            "decision": self.decision,
            "checkpoint": self.checkpoint,
            "shift": self.shift,
            "maps": self.maps,
            "rows": self.rows,
            "images": [asdict(image) for image in self.images],
            "curves": {name: [points.tolist() for points in curve] for name, curve in self.curves.items()},
        }
        if self.official is not None:
            values["official"] = asdict(self.official)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(without_nan(values), indent=1, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Read the results that `save` wrote. Raises UserError if the file has no results."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            rows = _rows_with_nan(values["rows"])
            official = values.get("official")
            if official is not None:
                official = Official(**{**official, "rows": _rows_with_nan(official["rows"])})
            images = [ImageResult(**image) for image in values["images"]]
            curves = {name: (np.array(x), np.array(y)) for name, (x, y) in values["curves"].items()}
            thresholds = (values["threshold"], values["pixel_threshold"], values["false_alarm"])
            return cls(
                rows,
                images,
                curves,
                *thresholds,
                maps=values["maps"],
                official=official,
                decision=values.get("decision"),
                checkpoint=values.get("checkpoint"),
                shift=values.get("shift"),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} has no results of a test ({type(error).__name__} {error}): test the run again"
            ) from error

    def save_scores(self, path: Path) -> None:
        """Write a CSV table of the images, numbers with 6 digits. Raises UserError if it cannot be written."""
        with atomic_write(path) as temporary, open_table(temporary) as file:
            writer = csv.writer(file)
            writer.writerow(["path", "category", "defect", "label", "score", "p_value", "verdict", "threshold"])
            for image in self.images:
                verdict = {None: "", True: "anomalous", False: "nominal"}[image.anomalous]
                judged = (_six_digits(image.score), _six_digits(image.p_value), verdict, _six_digits(image.threshold))
                writer.writerow([image.path, image.category, image.defect, image.label, *judged])


def _align_columns(lines: list[list[str]]) -> str:
    """Return lines of cells as text in columns. The first column has names, the others numbers."""
    sides = ("left", *["right"] * (len(lines[0]) - 1))
    return tabulate(lines, tablefmt="plain", colalign=sides, disable_numparse=True)


def _is_of(key: str, metric: str) -> bool:
    """Return whether a key of `Official` is a metric, or that metric on a subset, and not an error bound."""
    return key == metric or (key.startswith(f"{metric}_") and "error_bound" not in key)


def format_value(values: Row, name: str) -> str:
    """Return a cell of the table: a metric, or wrong verdicts as COUNT/TOTAL or as their rate; "" without a value."""
    rate, total = VERDICTS.get(name, (name, ""))
    value = values.get(rate, math.nan)
    if math.isnan(value):
        return ""
    if not total:
        return f"{value:.4f}"
    return f"{values[name]:.0f}/{values[total]:.0f}" if name in values else f"{100 * value:.3g} %"


def _six_digits(value: float | None) -> str:
    """Return a number with 6 significant digits, those of a float32; "" for None."""
    return "" if value is None else f"{value:.6g}"


def without_nan(value: Any) -> Any:
    """Return nested dicts and lists with None in place of each NaN."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _rows_with_nan(rows: dict[str, dict[str, float | None]]) -> dict[str, Row]:
    """Return rows with NaN in place of each None."""
    return {row: {name: _with_nan(value) for name, value in metrics.items()} for row, metrics in rows.items()}


def _with_nan(value: float | None) -> float:
    return math.nan if value is None else value
