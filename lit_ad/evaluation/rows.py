"""The rows of a test's results: the images of each row, and the metrics that need no curve."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean

from lit_ad.evaluation.results import POOLED, VERDICTS, ImageResult, Row


def group_rows(groups: list[tuple[str, str]]) -> dict[str, set[str]]:
    """Return the rows of the results, each with its groups CATEGORY/DEFECT.

    The rows are "pooled" with all groups; "CATEGORY/" if there are several categories; and "CATEGORY/DEFECT", a defect
    type with the good images of its category.

    Args:
        groups: (category, defect type) of all groups.
    """
    rows = {POOLED: {f"{category}/{defect}" for category, defect in groups}}
    categories: dict[str, set[str]] = defaultdict(set)
    for category, defect in groups:
        categories[category].add(f"{category}/{defect}")
    for category, members in sorted(categories.items()):
        if len(categories) > 1:
            rows[f"{category}/"] = members
        rows |= {name: {name, f"{category}/good"} for name in sorted(members - {f"{category}/good"})}
    return rows


def verdict_row(images: Iterable[ImageResult]) -> Row:
    """Return the metrics of the verdicts on some images, each at the threshold of its category.

    They are the numbers of false alarms and misses, their rates with 95 % intervals, precision and recall. A metric
    without images or without a threshold is NaN.
    """
    images = list(images)
    nominal = [image for image in images if image.label == 0]
    anomalous = [image for image in images if image.label == 1]
    judged = all(image.threshold is not None for image in images)
    false_alarms, misses = (
        sum(image.is_wrong for image in images_of) if judged else math.nan for images_of in (nominal, anomalous)
    )
    alarm_ends, miss_ends = wilson(false_alarms, len(nominal)), wilson(misses, len(anomalous))
    hits = len(anomalous) - misses
    return {
        "nominal_images": len(nominal),
        "anomalous_images": len(anomalous),
        "false_alarms": false_alarms,
        "false_alarm_rate": ratio(false_alarms, len(nominal)),
        "false_alarm_rate_low": alarm_ends[0],
        "false_alarm_rate_high": alarm_ends[1],
        "misses": misses,
        "miss_rate": ratio(misses, len(anomalous)),
        "miss_rate_low": miss_ends[0],
        "miss_rate_high": miss_ends[1],
        "precision": ratio(hits, hits + false_alarms),
        "recall": ratio(hits, len(anomalous)),
    }


def pixel_verdict_row(nominal: int, anomalous: int, hits: float, false: float, f1s: Sequence[float] = ()) -> Row:
    """Return F1, IoU and the two rates of the ROC curve at the pixel threshold.

    Args:
        nominal: Number of nominal pixels.
        anomalous: Number of anomalous pixels. With 0, the metrics are NaN.
        hits: Number of anomalous pixels that are marked; NaN without a pixel threshold.
        false: Number of nominal pixels that are marked; NaN without a pixel threshold.
        f1s: The F1 of each anomalous image.
    """
    defined = anomalous > 0
    return {
        "nominal_pixels": nominal,
        "anomalous_pixels": anomalous,
        "pixel_f1": ratio(2 * hits, hits + false + anomalous) if defined else math.nan,
        "pixel_f1_by_image": fmean(f1s) if f1s else math.nan,
        "pixel_iou": ratio(hits, false + anomalous) if defined else math.nan,
        "pixel_recall": ratio(hits, anomalous),
        "pixel_false_positive_rate": ratio(false, nominal),
    }


def nominal_mask_row(shares: list[float]) -> Row:
    """Return how many nominal images have a marked pixel, its rate with a 95 % interval, and the mean marked share.

    Args:
        shares: For each nominal image, the share of its pixels that is marked. If empty, the metrics are NaN.
    """
    marked = sum(share > 0 for share in shares)
    low, high = wilson(marked, len(shares))
    return {
        "mask_false_alarms": marked if shares else math.nan,
        "mask_false_alarm_rate": ratio(marked, len(shares)),
        "mask_false_alarm_rate_low": low,
        "mask_false_alarm_rate_high": high,
        "nominal_share_marked": ratio(math.fsum(shares), len(shares)),
    }


def mean_row(rows: list[Row]) -> Row:
    """Return the mean of each metric over categories, without counts and intervals. NaN if a category has no value."""
    counts = ("_images", "_pixels", "_low", "_high", *VERDICTS)
    return {name: fmean(row[name] for row in rows) for name in rows[0] if not name.endswith(counts)}


def wilson(count: float, total: int) -> tuple[float, float]:
    """Return the ends of Wilson's 95 % interval of a rate, count / total; NaN if total is 0 or count is NaN.

    It also holds for few images and for rates near 0 and 1 (Brown, Cai, DasGupta,
    https://doi.org/10.1214/ss/1009213286).
    """
    if total == 0 or math.isnan(count):
        return math.nan, math.nan
    from scipy.stats import binomtest  # here, because the import takes a second, and reading results does not need it

    interval = binomtest(int(count), total).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def ratio(part: float, total: float) -> float:
    """Return part / total; NaN if total is 0."""
    return part / total if total else math.nan
