"""By which rules a data set is scored: what its source tells the evaluation, which tells it to the reader."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lit_ad.batch import Sample


class Defect(NamedTuple):
    """One defect of an image."""

    mask: NDArray[np.bool_]  # (H, W)
    saturation: int  # so many of its pixels, once found, count as all of it


@dataclass(frozen=True)
class Rules:
    """What a data set is scored by, beside the metrics of every test.

    Args:
        name: Of the data set.
        metrics: How each of its metrics is made, in a sentence, by the metric's name.
        headline: Those of them that are printed; all are in the file.
        subsets: What a defect type is called that is measured apart, with the good images. Where there are any, the
            figure of a category is the mean of theirs.
        defects: The defects of an image, none of a good one; None where its data cannot tell them apart.
        remarks: What is left out, and why: a sentence each.
    """

    name: str
    metrics: Mapping[str, str]
    headline: tuple[str, ...]
    subsets: Mapping[str, str] = field(default_factory=dict)
    defects: Callable[[Sample], list[Defect] | None] | None = None
    remarks: tuple[str, ...] = ()
