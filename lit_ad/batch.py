"""The values that pass through a model: Samples make a Batch, and the model turns it into a Prediction."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lit_ad.image.pixels import Size
from lit_ad.image.view import Box

SplitName = Literal["train", "validation", "test", "predict"]  # validation: nominal images that the data set holds out


# A NamedTuple, because Lightning's half precision rebuilds every value in a batch, and fails on frozen dataclasses.
class Sample(NamedTuple):
    """One image, with what is known about it before it is opened."""

    image: Path  # a file, or a page FILE#N of a TIFF with several pages (pixels.split_page)
    label: int  # 0 nominal, 1 anomalous, -1 unknown (predict)
    mask: Path | None = None  # a file, or a folder of files; None: an anomalous image has no pixel truth
    category: str = ""
    defect: str = "good"  # the defect type, "good" for nominal images
    split: SplitName = "train"
    error: str = ""  # predict: why the image cannot be judged (a black image takes its place); "": it can
    item: str = ""  # the object that the image shows, if several images show views or parts of one object
    mask_above: int | None = None  # mask values above this are anomalous; None: all values that are not black


def list_repeated(samples: Sequence[Sample]) -> list[str]:
    """Return the categories in which several samples show one item."""
    counts = Counter((sample.category, sample.item) for sample in samples if sample.item)
    return sorted({category for (category, _), count in counts.items() if count > 1})


@dataclass
class Batch:
    """B images as network inputs. The model turns the pixels into floats, and its networks normalise them."""

    pixels: Tensor | None  # (B, 3, H, W) uint8; None: cached features replace them
    index: Tensor  # (B,): the number of the sample, or of the tile, in its split
    samples: list[Sample]
    sizes: list[Size]  # of the original images
    boxes: list[Box]  # the part of the pixels that each image's content fills; the rest is padding
    canvases: list[Size] | None = None  # the size of each input before padding to the largest; None: all are equal
    masks: list[Tensor | None] | None = None  # B x (H0, W0) bool at original size; None: an image without pixel truth
    features: list[Tensor] | None = None  # cached outputs of the frozen part, (B, ...) each
    # For methods that also train on other images:
    unrelated: Tensor | None = None  # (B, 3, H, W) uint8: images of other things
    corrupted: Tensor | None = None  # (B, 3, H, W) uint8: the images with artificial defects
    corruption: Tensor | None = None  # (B, 1, H, W) bool: the pixels of the artificial defects

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def labels(self) -> Tensor:
        """The labels (B,): 0 nominal, 1 anomalous, -1 unknown."""
        return torch.tensor([sample.label for sample in self.samples])

    @property
    def canvas(self) -> Size:
        """Height and width of the pixels."""
        assert self.pixels is not None
        return self.pixels.shape[-2], self.pixels.shape[-1]

    def input_size(self, i: int) -> Size:
        """Return height and width of the network's input for image i."""
        return self.canvas if self.canvases is None else self.canvases[i]

    def split(self) -> list["Batch"]:
        """Return a batch for each image, without the padding to the largest image."""
        parts = []
        for i in range(len(self)):
            part, (height, width) = self.select([j == i for j in range(len(self))]), self.input_size(i)
            assert part.pixels is not None
            parts.append(replace(part, pixels=part.pixels[..., :height, :width], canvases=None))
        return parts

    def same_size_parts(self) -> list["Batch"]:
        """Return this batch alone if all its inputs have the same size, else a batch for each image."""
        return [self] if self.canvases is None else self.split()

    def select(self, keep: Sequence[bool]) -> "Batch":
        """Return a batch of the images for which `keep` is true."""
        if all(keep):
            return self
        rows = [i for i, wanted in enumerate(keep) if wanted]

        def pick(value: Any) -> Any:
            if value is None or isinstance(value, Tensor):
                return None if value is None else value[rows]
            return [value[i] for i in rows]

        values = {field.name: pick(getattr(self, field.name)) for field in fields(self) if field.name != "features"}
        features = None if self.features is None else [level[rows] for level in self.features]
        return Batch(**values, features=features)

    def to(self, device: torch.device, **kwargs: Any) -> "Batch":
        """Return this batch on a device. Masks stay on the CPU: only metrics read them."""
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
    """The other images of a training step. None: the data do not have them."""

    unrelated: Tensor | None = None  # (B, 3, H, W) in [0, 1]: images of other things
    corrupted: Tensor | None = None  # (B, 3, H, W) in [0, 1]: the images with artificial defects
    corruption: Tensor | None = None  # (B, 1, H, W) bool: the pixels of the artificial defects


class Prediction(NamedTuple):
    """The outputs of a method for B images: raw values, neither clamped nor scaled nor thresholded."""

    anomaly_map: Tensor | None  # (B, 1, h, w) float32 at the method's own resolution; None: the method makes no maps
    score: Tensor | None = None  # (B,) float32, higher is more anomalous; None: the method's `score` of the map
    parts: dict[str, Tensor] = {}  # noqa: RUF012  # further scores by name, (B,) each; never modified
