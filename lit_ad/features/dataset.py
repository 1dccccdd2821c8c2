"""Items that have the frozen part's features beside their pixels, or in place of them."""

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import Dataset

from lit_ad.batch import Batch, Sample


class Features(Sized, Protocol):
    """The features of each item: (1, C, h, w) of each tap."""

    def __getitem__(self, index: int) -> list[Tensor]: ...


class Items(Sized, Protocol):
    """What a loader loads: a dataset of images, with features or without."""

    @property
    def samples(self) -> Sequence[Sample]: ...

    @property
    def tiles(self) -> Any:
        """Where the items are tiles: of which images. None: each item is an image."""

    @property
    def has_pixels(self) -> bool: ...

    @property
    def is_in_memory(self) -> bool:
        """Whether an item is there without that an image file is read or an image is changed."""

    def item(self, index: int, pixels: bool = True) -> Batch:
        """Return an item, with its image or without."""

    def __getitem__(self, index: int) -> Batch: ...


class FeatureDataset(Dataset[Batch]):
    """The items of a dataset, each with its features.

    Args:
        dataset: The images, or their tiles.
        features: Of each item, in the same order.
        pixels: Whether items have pixels as well; without, no image is read.
    """

    def __init__(self, dataset: Items, features: Features, pixels: bool = True) -> None:
        assert len(dataset) == len(features), f"{len(features)} features of {len(dataset)} items"
        self.dataset, self.features, self.has_pixels = dataset, features, pixels

    @property
    def samples(self) -> Sequence[Sample]:
        return self.dataset.samples

    @property
    def tiles(self) -> Any:
        return self.dataset.tiles

    @property
    def is_in_memory(self) -> bool:
        return not self.has_pixels or self.dataset.is_in_memory

    def __len__(self) -> int:
        return len(self.dataset)

    def item(self, index: int, pixels: bool = True) -> Batch:
        item = self.dataset.item(index, pixels and self.has_pixels)
        return replace(item, features=self.features[index])

    def __getitem__(self, index: int) -> Batch:
        return self.item(index)


@dataclass(frozen=True)
class SplitFeatures:
    """The features that a training has of its splits.

    Args:
        splits: By the name of the split, "train" or "val"; a split may be absent.
        train_pixels: Whether training items have pixels as well. Those of validation always have.
    """

    splits: Mapping[str, Features] = field(default_factory=dict)
    train_pixels: bool = True

    def add_to(self, dataset: Items, split: str) -> Items:
        """Return the dataset with the features of a split, or as it is where there are none."""
        if split not in self.splits:
            return dataset
        return FeatureDataset(dataset, self.splits[split], self.train_pixels or split != "train")
