"""Mark the anomalous pixels of a map, by a few numbers that any program can apply. NumPy only."""

import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lit_ad.detector.clean_up import CleanUp
from lit_ad.detector.components import Mask, find_components


@dataclass(frozen=True)
class Marking:
    """The rule by which a decision marks pixels in the maps of a category. A call returns the mask.

    Args:
        threshold: Pixels above it are marked.
        area: Regions (8-connected) of fewer pixels above the threshold are not marked.
        clean_up: The steps that turn the marked pixels into an outline. None: no steps.
    """

    threshold: float
    area: int = 1
    clean_up: CleanUp | None = None

    def __call__(self, anomaly_map: NDArray[np.float32], inside: Mask | None = None) -> Mask:
        """Return the anomalous pixels of a map, (H, W) -> (H, W). `inside` (H, W): the pixels that count; None: all.

        Warns if the map has fewer pixels than a region must have.
        """
        areas = {"area": self.area, "clean_up.area": 0 if self.clean_up is None else self.clean_up.area}
        for name, area in areas.items():
            if area > anomaly_map.size:
                height, width = anomaly_map.shape
                warnings.warn(
                    f"decision.{name} is {area}, more than all pixels of an image of {height}x{width}: none of "
                    "its regions is marked",
                    stacklevel=2,
                )
        marked = anomaly_map > self.threshold
        if inside is not None:
            marked &= inside
        if self.area > 1:
            parts = find_components(marked)
            marked = parts.paint(parts.sizes >= self.area)
        return marked if self.clean_up is None else self.clean_up(anomaly_map, marked, inside)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Marking":
        """Return the marking of `to_dict`'s values."""
        clean_up = values["clean_up"]
        return cls(values["threshold"], values["area"], None if clean_up is None else CleanUp(**clean_up))
