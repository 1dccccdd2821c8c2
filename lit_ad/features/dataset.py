"""Datasets whose items have cached features, beside their pixels or instead of them."""

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import Dataset

from lit_ad.batch import Batch, Sample


class Features(Sized, Protocol):
    """The cached features of a dataset: for each item, (1, C, h, w) of each tap."""

    def __getitem__(self, index: int) -> list[Tensor]: ...


class Items(Sized, Protocol):
    """A dataset of images or tiles, with cached features or without, as a loader needs it."""

    @property
    def samples(self) -> Sequence[Sample]: ...

    @property
    def tiles(self) -> Any:
        """The tiles of all images; None if each item is an image."""

    @property
    def has_pixels(self) -> bool: ...

    @property
    def is_in_memory(self) -> bool:
        """Whether returning an item needs neither reading an image file nor augmenting an image."""

    def load_item(self, index: int, pixels: bool = True) -> Batch:
        """Return an item as a batch of one, with its pixels or without."""

    def __getitem__(self, index: int) -> Batch: ...


class FeatureDataset(Dataset[Batch]):
    """A dataset that adds cached features to the items of another one.

    Args:
        dataset: The images, or their tiles.
        features: The features of each item, in the same order.
        pixels: Whether items keep their pixels. If not, no image file is read.
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

    def load_item(self, index: int, pixels: bool = True) -> Batch:
        item = self.dataset.load_item(index, pixels and self.has_pixels)
        return replace(item, features=self.features[index])

    def __getitem__(self, index: int) -> Batch:
        return self.load_item(index)


@dataclass(frozen=True)
class SplitFeatures:
    """The cached features of a training.

    Args:
        splits: Features by the name of the split, "train" or "val". A split may be absent.
        train_pixels: Whether training items keep their pixels. Validation items always do.
    """

    splits: Mapping[str, Features] = field(default_factory=dict)
    train_pixels: bool = True

    def add_to(self, dataset: Items, split: str) -> Items:
        """Return the dataset of a split with its features, or unchanged if the split has none."""
        if split not in self.splits:
            return dataset
        return FeatureDataset(dataset, self.splits[split], self.train_pixels or split != "train")
