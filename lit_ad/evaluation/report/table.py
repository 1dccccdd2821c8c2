"""The page's table of metrics, with 95 % intervals.

The table has one line for each pair of a row (a set of images) and a run.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from lit_ad.evaluation.results import COLUMNS, MEAN, POOLED, VERDICTS, ImageResult, Results, Row, format_value
from lit_ad.metrics.intervals import IMAGE_METRICS, bootstrap

HEADINGS = {
    **dict(zip(COLUMNS[:6], ("image AUROC", "AP", "F1 max", "pixel AUROC", "pixel F1 max", "AUPRO 30 %"), strict=True)),
    **{"aupimo": "AUPIMO", "instance_recall": "defects found", "instance_precision": "regions on defects"},
    **{"false_alarms": "false alarms", "misses": "misses"},
}


@dataclass(frozen=True)
class Cell:
    """A cell: the text of a value, of its interval, and why there is no value; each may be ""."""

    value: str
    interval: str = ""
    why: str = ""


def make_lines(results: dict[str, Results], rows: list[str]) -> list[tuple[str, str, list[Cell]]]:
    """Return row, run and cells of each line. Lines of the same row are adjacent.

    Args:
        results: The results by the name of their run.
        rows: Names of rows.
    """
    return [
        (row, run, [make_cell(figures, row, name) for name in HEADINGS])
        for row in rows
        for run, figures in results.items()
        if row in figures.rows
    ]


def make_cell(results: Results, row: str, name: str) -> Cell:
    """Return the cell of a metric with its interval, or of wrong verdicts with the interval of their rate."""
    values = results.rows[row]
    value = format_value(values, name)
    if not value:
        return Cell("", why=results.why_empty(row, name))
    metric = VERDICTS[name][0] if name in VERDICTS else name
    low, high = values.get(f"{metric}_low", math.nan), values.get(f"{metric}_high", math.nan)
    if math.isnan(low) or math.isnan(high):
        return Cell(value)
    return Cell(value, f"{100 * low:.0f} to {100 * high:.0f} %" if name in VERDICTS else f"{low:.3f} to {high:.3f}")


def add_intervals(results: Results) -> Results:
    """Return the results with 95 % intervals of the image metrics, by bootstrap if the test did not compute them."""
    rows = {
        name: values if name == MEAN else {**_compute_intervals(results, name), **values}
        for name, values in results.rows.items()
    }
    return replace(results, rows=rows)


def _compute_intervals(results: Results, row: str) -> Row:
    """Return the intervals of a row's image metrics, from the scores of its images; {} if the row has them."""
    if f"{next(iter(IMAGE_METRICS))}_low" in results.rows[row]:
        return {}
    images = select_row(results.images, row)
    scores, index = np.unique([image.score for image in images], return_inverse=True)
    labels = np.array([image.label for image in images])
    nominal, anomalous = (np.bincount(index[labels == label], minlength=len(scores)) for label in (0, 1))
    ends = bootstrap(list(IMAGE_METRICS.values()), nominal, anomalous)
    return {
        f"{name}_{end}": value
        for name, pair in zip(IMAGE_METRICS, ends, strict=True)
        for end, value in zip(("low", "high"), pair, strict=True)
    }


def select_row(images: list[ImageResult], row: str) -> list[ImageResult]:
    """Return the images of a row: all, those of a category, or those of a defect type with its category's good ones."""
    category, _, defect = row.partition("/")
    return [
        image
        for image in images
        if row == POOLED or (image.category == category and (not defect or image.defect in (defect, "good")))
    ]
