"""Whether a test says that its detector is no good, and what is likely the cause."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lit_ad.evaluation.results import MEAN, POOLED, Results

_LOWEST = 0.6  # image AUROC; 0.5 is that of a detector that knows nothing


def describe_doubts(results: Results, held_out: Mapping[str, NDArray[np.float64]]) -> str:
    """A sentence with the reasons to doubt a detector and their likely causes; "" where there is none.

    Args:
        results: Of the test.
        held_out: The scores of nominal images held out of training, (n,) by category; empty without a decision.
    """
    row = results.rows.get(MEAN) or results.rows[POOLED]
    auroc, pooled = row.get("image_auroc", math.nan), results.rows[POOLED]
    anomalous = pooled.get("anomalous_images", 0)
    reasons = []
    if auroc < _LOWEST:
        reasons.append(f"the image AUROC is {auroc:.3f}, where guessing gives 0.5")
    if anomalous and pooled.get("misses") == anomalous:
        all_of_them = "the one anomalous image was" if anomalous == 1 else f"all {anomalous:.0f} anomalous images were"
        reasons.append(f"{all_of_them} missed")
    if _lies_above(results, held_out):
        reasons.append("the good images held out of training score higher than those of the test")
    if not reasons:
        return ""
    sound = auroc >= _LOWEST and reasons[0].endswith("missed")  # the scores tell good from bad, the threshold does not
    rate = "a false-alarm rate that is too low for the held-out images, " if sound else ""
    causes = f"{rate}a folder that is not what it is taken for (lit-ad data check), too few training steps"
    return (
        f"This detector is of no use as it is: {', and '.join(reasons)}. Likely causes: {causes}, or a teacher without "
        "its pretrained weights."
    )


def _lies_above(results: Results, held_out: Mapping[str, NDArray[np.float64]]) -> bool:
    """Whether in some category the median held-out score lies above the highest score of the test."""
    for category, scores in held_out.items():
        tested = [image.score for image in results.images if image.category == category]
        if tested and len(scores) and float(np.median(scores)) > max(tested):
            return True
    return False
