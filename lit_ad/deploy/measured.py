"""Recall and false alarms as the labels of a line show them, at the shipped threshold and at others."""

from collections.abc import Sequence
from typing import Any

from lit_ad.deploy.journal_file import JournalFile
from lit_ad.detector.decision import Decision

RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # of false alarms, other thresholds
LABELLED = """
SELECT label, sampled, p_value, verdict FROM labels JOIN images ON images.id = labels.image
WHERE undone IS NULL AND label != 'unsure' AND verdict IS NOT NULL AND version = ?
"""
Judged = tuple[str, bool, float, str]  # label, whether of the random sample, p-value, verdict


def measured_rates(file: JournalFile, version: int, decision: Decision | None) -> list[dict[str, Any]]:
    """What the confirmed images that one version judged say of thresholds, as plain values for JSON.

    An image is anomalous at a rate where its p-value is no higher, whatever its category. So each threshold of the list
    is one for each category. All defects count for `recall`, and those of the random sample for `sampled_recall`;
    `false_alarms` are of good images of the random sample. The others were kept for their scores.

    Args:
        file: The journal.
        version: Of the detector: scores of another one do not compare.
        decision: Of that detector. None: there are no thresholds.

    Returns:
        A row for the shipped threshold, whose `rate` is null, and one for each of RATES that the held-out images allow;
        counts with 95 % intervals.
    """
    if decision is None:
        return []
    judged: list[Judged] = file.connection.execute(LABELLED, (version,)).fetchall()
    defects = [each for each in judged if each[0] == "defect"]
    sampled, good = ([each for each in judged if each[1] and each[0] == label] for label in ("defect", "good"))
    smallest = max((decision.smallest_rate(category) for category in decision.scores), default=1.0)
    rows = []
    for rate in (None, *(rate for rate in RATES if rate >= smallest)):
        row: dict[str, Any] = {"rate": rate, "kept_rate": decision.kept_rate() if rate is None else rate}
        for name, images in (("recall", defects), ("sampled_recall", sampled), ("false_alarms", good)):
            row[name] = share(sum(_is_anomalous(each, rate) for each in images), images)
        rows.append(row)
    return rows


def _is_anomalous(image: Judged, rate: float | None) -> bool:
    """Whether an image is anomalous at a rate; at None, as it was judged."""
    return image[3] == "anomalous" if rate is None else image[2] <= rate


def share(count: int, images: Sequence[Judged]) -> dict[str, Any]:
    """A count of images, with Wilson's 95 % interval of the rate; of none, there is none."""
    if not images:
        return {"count": 0, "images": 0, "low": None, "high": None}
    from scipy.stats import binomtest  # not needed by a device that only judges

    ends = binomtest(count, len(images)).proportion_ci(method="wilson")
    return {"count": count, "images": len(images), "low": float(ends.low), "high": float(ends.high)}
