"""A dataset gives features beside pixels or in place of pixels. The dataset of images stays unchanged."""

from collections.abc import Callable
from pathlib import Path

import albumentations as A
import numpy as np
import pytest
import torch
from PIL import Image

from lit_ad.batch import Sample
from lit_ad.data.augment import Augment
from lit_ad.data.dataset import AnomalyDataset
from lit_ad.features.dataset import FeatureDataset, SplitFeatures
from lit_ad.image.tiling import Tiles
from lit_ad.image.view import View
from tests.optional import unwrap

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write("a.png", size=(h, w)) writes a random RGB image under tmp_path."""
    generator = np.random.default_rng(0)

    def write(name: str, size: tuple[int, int] = (20, 24)) -> Path:
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / name)
        return tmp_path / name

    return write


def test_features_come_beside_pixels_or_in_place_of_pixels(write: Write) -> None:
    path = write("a.png")
    images = AnomalyDataset([Sample(path, 0)], View(16))
    features = [[torch.ones(1, 8, 4, 4)]]
    dataset = FeatureDataset(images, features, pixels=True)
    assert dataset[0].features is features[0] and unwrap(dataset[0].pixels).shape == (1, 3, 16, 16)
    dataset = FeatureDataset(images, features, pixels=False)
    assert images[0].features is None and images[0].pixels is not None  # the dataset of images does not change
    path.unlink()  # the file is not read either
    assert dataset[0].features is features[0] and dataset[0].pixels is None and len(dataset[0]) == 1


def test_a_feature_dataset_has_the_length_samples_and_tiles_of_its_images(write: Write) -> None:
    samples = [Sample(write(f"{i}.png", (16, 32)), 0) for i in range(2)]
    tiles = Tiles([(16, 32)] * 2, 16, 0)
    images = AnomalyDataset(samples, View(None, tile=16), tiles=tiles)
    dataset = FeatureDataset(images, [[torch.full((1, 2), float(i))] for i in range(4)])
    assert len(dataset) == 4 and dataset.samples == samples and dataset.tiles is tiles
    assert [float(unwrap(dataset[i].features)[0][0, 0]) for i in range(4)] == [0, 1, 2, 3]
    assert [dataset[i].samples[0] for i in range(4)] == [samples[0], samples[0], samples[1], samples[1]]
    with pytest.raises(AssertionError, match="3 features of 4 items"):
        FeatureDataset(images, [[torch.ones(1, 2)]] * 3)


def test_is_in_memory_is_true_where_no_image_is_read(write: Write) -> None:
    path, features = write("a.png"), [[torch.ones(1, 2)]]
    images = AnomalyDataset([Sample(path, 0)], View(16))
    assert not images.is_in_memory and not FeatureDataset(images, features).is_in_memory
    assert FeatureDataset(images, features, pixels=False).is_in_memory
    images.fill_cache(1)
    again = AnomalyDataset(images.samples, View(16), cache=images.cache)
    assert images.is_in_memory and again.is_in_memory and FeatureDataset(images, features).is_in_memory
    augmented = AnomalyDataset(images.samples, View(16), Augment([A.InvertImg(p=1)]), cache=images.cache)
    assert not augmented.is_in_memory
    path.unlink()
    assert torch.equal(unwrap(again[0].pixels), unwrap(images[0].pixels))


def test_each_split_gets_its_own_features(write: Write) -> None:
    images = AnomalyDataset([Sample(write("a.png"), 0)], View(16))
    features = [[torch.ones(1, 2)]]
    assert SplitFeatures().add_to(images, "train") is images
    given = SplitFeatures({"train": features, "val": features}, train_pixels=False)
    train, val = given.add_to(images, "train"), given.add_to(images, "val")
    assert (train.has_pixels, val.has_pixels) == (False, True)
    assert train[0].features is val[0].features is features[0]
    assert SplitFeatures({"train": features}).add_to(images, "train").has_pixels
    assert SplitFeatures({"train": features}).add_to(images, "val") is images
