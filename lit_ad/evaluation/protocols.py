"""The official scoring rules of a data set. Its source returns them, and the evaluation applies and prints them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lit_ad.batch import Sample


class Defect(NamedTuple):
    """One defect of an image."""

    mask: NDArray[np.bool_]  # (H, W)
    saturation: int  # the number of found pixels that counts as the complete defect


@dataclass(frozen=True)
class Rules:
    """The rules by which a data set is scored, in addition to the metrics of every test.

    Args:
        name: Name of the data set.
        metrics: For each official metric, a sentence that says how it is computed.
        headline: The metrics that are printed; metrics.json has all of them.
        subsets: For each defect type that is measured apart, with the good images, the suffix of its figures. The
            figure of a category is then the mean over these types.
        defects: A function that returns the defects of an image, an empty list for a good one, or None if its masks
            do not tell the defects apart.
        remarks: Sentences that say what is left out, and why.
    """

    name: str
    metrics: Mapping[str, str]
    headline: tuple[str, ...]
    subsets: Mapping[str, str] = field(default_factory=dict)
    defects: Callable[[Sample], list[Defect] | None] | None = None
    remarks: tuple[str, ...] = ()
