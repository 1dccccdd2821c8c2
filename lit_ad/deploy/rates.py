"""Recall and false alarms of a detector, counted by the labels of its line, at the shipped threshold and at others."""

from collections.abc import Sequence
from typing import Any

from lit_ad.deploy.journal_file import JournalFile
from lit_ad.detector.decision import Decision

RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # rates of false alarms that set the other thresholds
_QUERY = """
SELECT label, sampled, p_value, verdict FROM labels JOIN images ON images.id = labels.image
WHERE undone IS NULL AND label != 'unsure' AND verdict IS NOT NULL AND version = ?
"""
Labelled = tuple[str, bool, float, str]  # label, whether in the random sample, p-value, verdict


def measure_rates(file: JournalFile, version: int, decision: Decision | None) -> list[dict[str, Any]]:
    """Count recall and false alarms among the labelled images that one version of the detector judged.

    `recall` counts all defects, `sampled_recall` the defects of the random sample, and `false_alarms` the good images
    of the random sample. Other good images do not count: they were kept because of their scores.

    The threshold of a rate r calls an image anomalous if its p-value is at most r. Since p-values are taken within a
    category, this is one threshold for each category.

    Args:
        file: The journal.
        version: The detector's number in the table of versions. Scores of different versions cannot be compared.
        decision: The detector's decision. None: it has no threshold.

    Returns:
        Plain values for JSON. The first row is the shipped threshold, with the `rate` null; its `kept_rate` is the
        highest of the categories. Then comes a row for each of RATES that the number of held-out images allows. Counts
        have 95 % intervals. Empty without a decision.
    """
    if decision is None:
        return []
    labelled: list[Labelled] = file.connection.execute(_QUERY, (version,)).fetchall()
    defects = [image for image in labelled if image[0] == "defect"]
    sampled, good = ([image for image in labelled if image[1] and image[0] == label] for label in ("defect", "good"))
    smallest = max((decision.smallest_rate(category) for category in decision.scores), default=1.0)
    shipped = max(decision.false_alarm, smallest)
    rows = []
    for rate in (None, *(rate for rate in RATES if rate >= smallest)):
        row: dict[str, Any] = {"rate": rate, "kept_rate": shipped if rate is None else rate}
        for name, images in (("recall", defects), ("sampled_recall", sampled), ("false_alarms", good)):
            row[name] = _count_anomalous(images, rate)
        rows.append(row)
    return rows


def _is_anomalous(image: Labelled, rate: float | None) -> bool:
    """Return whether an image is anomalous at the threshold of a rate. None: at the threshold that judged it."""
    return image[3] == "anomalous" if rate is None else image[2] <= rate


def _count_anomalous(images: Sequence[Labelled], rate: float | None) -> dict[str, Any]:
    """Count the anomalous images, with Wilson's 95 % interval of their share. No images: the interval is null."""
    if not images:
        return {"count": 0, "images": 0, "low": None, "high": None}
    from scipy.stats import binomtest  # imported here: a device that only judges does not need SciPy

    count = sum(_is_anomalous(image, rate) for image in images)

    ends = binomtest(count, len(images)).proportion_ci(method="wilson")
    return {"count": count, "images": len(images), "low": float(ends.low), "high": float(ends.high)}
