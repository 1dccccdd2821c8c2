"""These tests put items together into batches."""

import pytest
import torch

from lit_ad.batch import Sample
from lit_ad.data.collation import collate, collate_equal, join
from lit_ad.data.corrupt import CutPaste
from lit_ad.data.dataset import AnomalyDataset
from lit_ad.errors import UserError
from lit_ad.features.dataset import FeatureDataset
from lit_ad.image.view import View
from tests.data.conftest import Write
from tests.optional import unwrap


def test_images_of_different_sizes_are_padded_in_one_batch(write: Write) -> None:
    samples = [Sample(write("a.png", (20, 24)), 0, split="test"), Sample(write("b.png", (30, 16)), 0, split="test")]
    items = [AnomalyDataset(samples, View(None))[i] for i in range(2)]
    batch = collate(items)
    pixels = unwrap(batch.pixels)
    assert pixels.shape == (2, 3, 30, 24) and batch.canvases == [(20, 24), (30, 16)]
    for image, item, (top, left, bottom, right) in zip(pixels, items, batch.boxes, strict=True):
        assert torch.equal(image[:, top:bottom, left:right], unwrap(item.pixels)[0])
    assert not pixels[0, :, 20:].any() and not pixels[1, :, :, 16:].any()
    for one, item in zip(batch.same_size_parts(), items, strict=True):  # each part is like a batch of that image alone
        assert torch.equal(unwrap(one.pixels), unwrap(item.pixels)) and one.canvases is None
        assert (one.samples, one.sizes, one.boxes) == (item.samples, item.sizes, item.boxes)
    assert collate(items[:1]).canvases is None
    assert unwrap(collate([items[0], items[0]]).same_size_parts()[0].pixels).shape[0] == 2
    assert unwrap(batch.select([False, True]).same_size_parts()[0].pixels).shape == (1, 3, 30, 16)
    with pytest.raises(UserError, match=r"\(20, 24\) .*a.png and \(30, 16\) .*b.png: set model.view.image_size"):
        collate_equal(items)


def test_a_batch_has_the_masks_of_its_test_images(write: Write) -> None:
    image = write("a.png")
    kinds = [Sample(image, 0, split="test"), Sample(image, 1, split="test"), Sample(image, 0)]
    nominal, anomalous, training = (AnomalyDataset([kind], View(16))[0] for kind in kinds)
    batch = collate([nominal, anomalous])
    first, second = unwrap(batch.masks)
    assert first is not None and second is None
    assert collate([anomalous]).masks == [None]
    assert collate([training]).masks is None


def test_labels_sizes_and_samples_have_the_order_of_the_images(write: Write) -> None:
    samples = [Sample(write(f"{i}.png", (20 + i, 24)), i % 2, category="ab"[i % 2], split="test") for i in range(4)]
    dataset = AnomalyDataset(samples, View(16, fit="pad"))
    batch = collate([dataset[i] for i in (2, 0, 3)])
    assert batch.samples == [samples[2], samples[0], samples[3]] and batch.index.tolist() == [2, 0, 3]
    assert batch.labels.tolist() == [0, 0, 1] and batch.sizes == [(22, 24), (20, 24), (23, 24)]
    for row, i in enumerate((2, 0, 3)):
        assert torch.equal(unwrap(batch.pixels)[row], unwrap(dataset[i].pixels)[0])
        assert batch.boxes[row] == dataset[i].boxes[0]


def test_a_batch_has_the_corrupted_images_of_its_items(write: Write) -> None:
    dataset = AnomalyDataset([Sample(write(f"{i}.png"), 0) for i in range(3)], View(16), corrupt=CutPaste())
    batch, items = collate_equal([dataset[i] for i in range(3)]), [dataset[i] for i in range(3)]
    corrupted, corruption = unwrap(batch.corrupted), unwrap(batch.corruption)
    assert corrupted.shape == (3, 3, 16, 16) and corruption.shape == (3, 1, 16, 16)
    for row, item in enumerate(items):
        assert torch.equal(corrupted[row], unwrap(item.corrupted)[0])
        assert torch.equal(corruption[row], unwrap(item.corruption)[0])


def test_a_batch_joins_the_features_of_its_items(write: Write) -> None:
    images = AnomalyDataset([Sample(write(f"{i}.png"), 0) for i in range(3)], View(16))
    levels = [torch.randn(3, 8, 4, 4), torch.randn(3, 5, 7)]
    dataset = FeatureDataset(images, [[level[i : i + 1] for level in levels] for i in range(3)], pixels=False)
    batch = collate_equal([dataset[i] for i in range(3)])
    assert batch.pixels is None and len(batch) == 3
    for joined, level in zip(unwrap(batch.features), levels, strict=True):
        assert torch.equal(joined, level)


def test_a_batch_of_one_image_is_not_copied() -> None:
    row = torch.ones(1, 3, 8, 8)
    assert join([row]) is row and join([row, row]).shape == (2, 3, 8, 8)
