"""The two things that travel: a Batch into the model, a Prediction out of it."""

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

Size = tuple[int, int]  # height, width
Box = tuple[int, int, int, int]  # top, left, bottom, right: the slice [top:bottom, left:right]


class Tiling(NamedTuple):
    """How evaluation cuts its images: side and overlap in pixels, tiles run at once."""

    size: int
    overlap: int
    batch: int


@dataclass
class Batch:
    """B images and what is known of each.

    The DataModule fills `image` with uint8 pixels (a quarter of the bytes to move); AnomalyModule turns them into
    floats normalised for its teacher once they are on the device, so methods only ever see floats.
    """

    image: Tensor | None  # (B, 3, H, W); None where cached features serve and the method needs no pixels
    label: Tensor  # (B,) 0 nominal, 1 anomalous, -1 unknown
    index: Tensor  # (B,) of the sample in its split; tells repeats apart
    path: list[str]
    category: list[str]
    defect: list[str]  # defect type, "good" for nominal images
    size: list[Size]  # of the original images
    box: list[Box]  # where the image's content lies in `image`; what is outside is padding
    mask: list[Tensor | None] | None = None  # B x (H0, W0) bool at original size; an entry is None without pixel truth
    features: list[Tensor] | None = None  # the teacher's, from the cache, one (B, C, h, w) per tap
    tiling: Tiling | None = None  # set when evaluation is to run by tiles

    def __len__(self) -> int:
        return len(self.path)

    def _map(self, function: Any, *names: str) -> "Batch":
        def each(value: Any) -> Any:
            if isinstance(value, Tensor):
                return function(value)
            return [each(item) for item in value] if isinstance(value, list) else value

        return replace(self, **{name: each(getattr(self, name)) for name in names})

    def select(self, keep: list[bool]) -> "Batch":
        """The images for which `keep` is true."""
        if all(keep):
            return self
        rows = [i for i, kept in enumerate(keep) if kept]

        def pick(value: Any) -> Any:
            return value[rows] if isinstance(value, Tensor) else [value[i] for i in rows]

        chosen = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("features", "tiling")}
        chosen = {name: value if value is None else pick(value) for name, value in chosen.items()}
        features = None if self.features is None else [level[rows] for level in self.features]
        return Batch(**chosen, features=features, tiling=self.tiling)

    def to(self, device: torch.device, **kwargs: Any) -> "Batch":
        """The batch on a device. Masks stay on the CPU: only metrics read them."""
        return self._map(lambda tensor: tensor.to(device, **kwargs), "image", "label", "index", "features")

    def pin_memory(self) -> "Batch":
        return self._map(lambda tensor: tensor.pin_memory(), *(field.name for field in fields(self)))


@dataclass
class Prediction:
    """What a method says of B images. Raw values: nothing is clamped, min-maxed or thresholded."""

    anomaly_map: Tensor | None  # (B, 1, h, w) float32 at the method's own resolution; None for image-level methods
    score: Tensor  # (B,) float32, higher is more anomalous, unbounded
    parts: dict[str, Tensor] | None = None  # further scores by name, (B,) each, measured beside `score`
