"""Which pixels of an anomaly map are anomalous, as numbers that any program can apply. NumPy only."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_ad.detector.clean_up import CleanUp
from lit_ad.detector.components import Mask, connected


@dataclass(frozen=True)
class Marking:
    """What a decision marks in the maps of a category. A call gives the mask.

    Args:
        threshold: Pixels above it are marked.
        area: Where they are connected to at least as many pixels above it (8-connected), themselves included.
        clean_up: What is made of the marked pixels. None: nothing.
    """

    threshold: float
    area: int = 1
    clean_up: CleanUp | None = None

    def __call__(self, anomaly_map: NDArray[np.float32], inside: Mask | None = None) -> Mask:
        """Return the anomalous pixels of a map, (H, W) -> (H, W). `inside` (H, W): what counts of it; None: all."""
        marked = anomaly_map > self.threshold
        if inside is not None:
            marked &= inside
        if self.area > 1:
            parts = connected(marked)
            marked = parts.paint(parts.sizes >= self.area)
        return marked if self.clean_up is None else self.clean_up(anomaly_map, marked, inside)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Marking":
        """The inverse of `to_dict`."""
        clean_up = values["clean_up"]
        return cls(values["threshold"], values["area"], None if clean_up is None else CleanUp(**clean_up))
