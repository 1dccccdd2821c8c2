"""Doubts about a tested detector: signs in the results that it does not work, and their likely causes."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lit_ad.evaluation.results import MEAN, POOLED, Results

_LOWEST = 0.6  # image AUROC below which a detector is doubted; guessing gives 0.5


def describe_doubts(results: Results, held_out: Mapping[str, NDArray[np.float64]]) -> str:
    """Return a sentence with the reasons to doubt a detector and their likely causes; "" if there are none.

    Args:
        results: The results of the test.
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
    only_threshold = auroc >= _LOWEST and reasons[0].endswith("missed")  # the scores tell good from bad images
    rate = "a false-alarm rate that is too low for the held-out images, " if only_threshold else ""
    causes = f"{rate}wrong folders of images (see lit-ad data check), too few training steps"
    return (
        f"This detector is of no use as it is: {', and '.join(reasons)}. Likely causes: {causes}, or a teacher without "
        "its pretrained weights."
    )


def _lies_above(results: Results, held_out: Mapping[str, NDArray[np.float64]]) -> bool:
    """Return whether in some category the median held-out score lies above the highest score of the test."""
    for category, scores in held_out.items():
        tested = [image.score for image in results.images if image.category == category]
        if tested and len(scores) and float(np.median(scores)) > max(tested):
            return True
    return False
