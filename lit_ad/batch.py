"""What travels: Samples make a Batch, a Batch goes into the model, a Prediction comes out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lit_ad.image.pixels import Size
from lit_ad.image.view import Box

Split = Literal["train", "validation", "test", "predict"]  # validation: nominal images that a data set holds out


class Sample(NamedTuple):  # half precision has Lightning rebuild what is in a batch, which no frozen dataclass allows
    """One image, and what is known of it before it is opened."""

    image: Path  # a file; of a TIFF of several pages, FILE#N is one of them (pixels.split_page)
    label: int  # 0 nominal, 1 anomalous, -1 unknown (predict)
    mask: Path | None = None  # a file, or a folder of them; an anomalous image without has no pixel truth
    category: str = ""
    defect: str = "good"  # the defect type, "good" for nominal images
    split: Split = "train"
    error: str = ""  # why an image to predict has no verdict; a black one stands in for one that cannot be read
    item: str = ""  # what in its category the image is a view or a part of, where there are several of it
    mask_above: int | None = None  # stored values of the mask above it are anomalous; None: what is not black


@dataclass
class Batch:
    """B images as the network sees them. The model turns the pixels into floats, and its networks normalise."""

    pixels: Tensor | None  # (B, 3, H, W) uint8; None where cached features serve and the method needs no pixels
    index: Tensor  # (B,) of the sample, or of the tile, in its split
    samples: list[Sample]
    sizes: list[Size]  # of the original images
    boxes: list[Box]  # where the image's content lies in its pixels; what is outside is padding
    canvases: list[Size] | None = None  # of each image's own input, where larger ones filled it up; None: all alike
    masks: list[Tensor | None] | None = None  # B x (H0, W0) bool at original size; an entry is None without pixel truth
    features: list[Tensor] | None = None  # of the frozen part, from the cache: (B, ...) each
    # For methods that train on them too:
    unrelated: Tensor | None = None  # (B, 3, H, W) uint8: other images
    corrupted: Tensor | None = None  # (B, 3, H, W) uint8: the images with made-up defects
    corruption: Tensor | None = None  # (B, 1, H, W) bool: where these are

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def labels(self) -> Tensor:
        """(B,): 0 nominal, 1 anomalous, -1 unknown."""
        return torch.tensor([sample.label for sample in self.samples])

    @property
    def canvas(self) -> Size:
        """Height and width of the pixels."""
        assert self.pixels is not None
        return self.pixels.shape[-2], self.pixels.shape[-1]

    def input_size(self, i: int) -> Size:
        """Height and width of the network's input for image i."""
        return self.canvas if self.canvases is None else self.canvases[i]

    def alone(self) -> list["Batch"]:
        """Each image by itself, without what fills it up."""
        parts = []
        for i in range(len(self)):
            part, (height, width) = self.select([j == i for j in range(len(self))]), self.input_size(i)
            assert part.pixels is not None
            parts.append(replace(part, pixels=part.pixels[..., :height, :width], canvases=None))
        return parts

    def uniform(self) -> list["Batch"]:
        """This batch, if its images have one input size; else each image by itself."""
        return [self] if self.canvases is None else self.alone()

    def select(self, keep: Sequence[bool]) -> "Batch":
        """The images for which `keep` is true."""
        if all(keep):
            return self
        rows = [i for i, kept in enumerate(keep) if kept]

        def pick(value: Any) -> Any:
            if value is None or isinstance(value, Tensor):
                return None if value is None else value[rows]
            return [value[i] for i in rows]

        chosen = {field.name: pick(getattr(self, field.name)) for field in fields(self) if field.name != "features"}
        features = None if self.features is None else [level[rows] for level in self.features]
        return Batch(**chosen, features=features)

    def to(self, device: torch.device, **kwargs: Any) -> "Batch":
        """The batch on a device. Masks stay on the CPU: only metrics read them."""
        return self._each_tensor(lambda tensor: tensor.to(device, **kwargs))

    def pin_memory(self) -> "Batch":
        return self._each_tensor(lambda tensor: tensor.pin_memory())

    def _each_tensor(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        changed: dict[str, Any] = {
            name: None if getattr(self, name) is None else function(getattr(self, name))
            for name in ("pixels", "index", "unrelated", "corrupted", "corruption")
        }
        features = None if self.features is None else [function(level) for level in self.features]
        return replace(self, **changed, features=features)


class Others(NamedTuple):
    """What a training step shows beside its images, as far as the data has it."""

    unrelated: Tensor | None = None  # (B, 3, H, W) in [0, 1]: of anything else
    corrupted: Tensor | None = None  # (B, 3, H, W) in [0, 1]: the images with made-up defects
    corruption: Tensor | None = None  # (B, 1, H, W) bool: where these are


class Prediction(NamedTuple):
    """What a method says of B images. Raw values: nothing is clamped, min-maxed or thresholded."""

    anomaly_map: Tensor | None  # (B, 1, h, w) float32 at the method's own resolution; None for image-level methods
    score: Tensor | None = None  # (B,) float32, higher is more anomalous; None: the method's `score` of the map
    parts: dict[str, Tensor] = {}  # noqa: RUF012  # further scores by name, (B,) each; never written to
