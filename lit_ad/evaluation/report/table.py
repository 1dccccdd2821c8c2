"""The table of metrics: each row of the results, of each run, with 95 % intervals."""

import math
from dataclasses import dataclass, replace

import numpy as np

from lit_ad.evaluation.results import COLUMNS, MEAN, POOLED, VERDICTS, ImageResult, Results, Row, shown
from lit_ad.metrics.intervals import IMAGE_CURVES, bootstrap

HEADINGS = {
    **dict(zip(COLUMNS[:6], ("image AUROC", "AP", "F1 max", "pixel AUROC", "pixel F1 max", "AUPRO 30 %"), strict=True)),
    **{"aupimo": "AUPIMO", "instance_recall": "defects found", "instance_precision": "regions on defects"},
    **{"false_alarms": "false alarms", "misses": "misses"},
}


@dataclass(frozen=True)
class Cell:
    """A value; its interval, or nothing; why there is no value, or nothing."""

    value: str
    interval: str = ""
    why: str = ""


def cells(results: dict[str, Results], rows: list[str]) -> list[tuple[str, str, list[Cell]]]:
    """Row, run and cells of each line, runs by name; the lines of a row follow one another."""
    return [
        (row, run, [cell(figures, row, name) for name in HEADINGS])
        for row in rows
        for run, figures in results.items()
        if row in figures.rows
    ]


def cell(results: Results, row: str, name: str) -> Cell:
    """A metric of a row; a number of wrong verdicts with the interval of its rate."""
    values = results.rows[row]
    value = shown(values, name)
    if not value:
        return Cell("", why=results.why_empty(row, name))
    metric = VERDICTS[name][0] if name in VERDICTS else name
    low, high = values.get(f"{metric}_low", math.nan), values.get(f"{metric}_high", math.nan)
    if math.isnan(low) or math.isnan(high):
        return Cell(value)
    return Cell(value, f"{100 * low:.0f} to {100 * high:.0f} %" if name in VERDICTS else f"{low:.3f} to {high:.3f}")


def with_intervals(results: Results) -> Results:
    """The same, with the image metrics' intervals by bootstrap where the test was not asked for them."""
    rows = {
        name: values if name == MEAN else {**intervals(results, name), **values}
        for name, values in results.rows.items()
    }
    return replace(results, rows=rows)


def intervals(results: Results, row: str) -> Row:
    """Of the image metrics of a row, from its images."""
    if f"{next(iter(IMAGE_CURVES))}_low" in results.rows[row]:
        return {}
    images = of_row(results.images, row)
    scores, cell = np.unique([image.score for image in images], return_inverse=True)
    labels = np.array([image.label for image in images])
    nominal, anomalous = (np.bincount(cell[labels == label], minlength=len(scores)) for label in (0, 1))
    ends = bootstrap(list(IMAGE_CURVES.values()), nominal, anomalous)
    return {
        f"{name}_{end}": value
        for name, pair in zip(IMAGE_CURVES, ends, strict=True)
        for end, value in zip(("low", "high"), pair, strict=True)
    }


def of_row(images: list[ImageResult], row: str) -> list[ImageResult]:
    """Those that a row of the results is of: all, a category's, or a defect type's with its category's good ones."""
    category, _, defect = row.partition("/")
    return [
        image
        for image in images
        if row == POOLED or (image.category == category and (not defect or image.defect in (defect, "good")))
    ]
