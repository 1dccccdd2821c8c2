"""A dataset gives samples as items: pixels in the size of the view, truth in its own size, and a cache that is never
changed."""

from pathlib import Path

import albumentations as A
import numpy as np
import pytest
import torch
from PIL import Image

from lit_ad.batch import Sample
from lit_ad.data.augment import Augment
from lit_ad.data.corrupt import CutPaste, Perlin
from lit_ad.data.dataset import AnomalyDataset
from lit_ad.data.sources.photographs import Unrelated
from lit_ad.errors import UserError
from lit_ad.image.pixels import read_image
from lit_ad.image.tiling import Tiles
from lit_ad.image.view import View
from tests.data.conftest import Write
from tests.optional import unwrap


def test_an_item_holds_pixels_truth_and_sample(write: Write, write_mask: Write) -> None:
    image, mask = write("a.png", (20, 24)), write_mask("a_mask.png", (20, 24))
    dataset = AnomalyDataset([Sample(image, 1, mask, "nut", "dent", "test")], View(16))
    item = dataset[0]
    pixels, (truth,) = unwrap(item.pixels), unwrap(item.masks)
    assert pixels.shape == (1, 3, 16, 16) and pixels.dtype == torch.uint8
    assert np.array_equal(pixels[0].permute(1, 2, 0), View(16)(read_image(image))[0])
    assert item.labels.tolist() == [1] and item.index.tolist() == [0] and item.samples == dataset.samples
    assert (item.sizes, item.boxes) == ([(20, 24)], [(0, 0, 16, 16)])
    assert item.features is None and item.unrelated is item.corrupted is item.corruption is None
    assert truth is not None and truth.dtype == torch.bool and truth.sum() == 120 and truth[:10, :12].all()


def test_an_item_has_truth_only_if_its_sample_is_a_test_image(write: Write, write_mask: Write) -> None:
    image = write("a.png")
    kinds = [Sample(image, 0, split="test"), Sample(image, 1, split="test"), Sample(image, 0), Sample(image, -1)]
    dataset = AnomalyDataset(kinds, View(16))
    (truth,) = unwrap(dataset[0].masks)
    assert truth is not None and truth.shape == (20, 24) and not truth.any()
    assert dataset[1].masks == [None]
    assert dataset[2].masks is None and dataset[3].masks is None


def test_a_mask_of_another_size_is_an_error_that_names_mask_and_image(write: Write, write_mask: Write) -> None:
    sample = Sample(write("a.png", (20, 24)), 1, write_mask("m.png", (24, 20)), split="test")
    with pytest.raises(UserError, match=r"m.png is 24x20 .* its image .*a.png is 20x24"):
        AnomalyDataset([sample], View(16))[0]


def test_a_mask_fits_the_upright_image(tmp_path: Path, write_mask: Write) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.png", exif=exif)
    item = AnomalyDataset([Sample(tmp_path / "a.png", 1, write_mask("m.png", (30, 20)), split="test")], View(16))[0]
    (truth,) = unwrap(item.masks)
    assert item.sizes == [(30, 20)] and truth is not None and truth.shape == (30, 20)


def test_the_cache_gives_the_same_items_without_reading_files(write: Write) -> None:
    samples = [Sample(write(f"{i}.png"), 0) for i in range(5)]
    dataset = AnomalyDataset(samples, View(16, fit="pad"))
    read = [dataset[i] for i in range(5)]
    dataset.fill_cache(2)
    for sample in samples:
        sample.image.unlink()
    for i in range(5):
        assert torch.equal(unwrap(dataset[i].pixels), unwrap(read[i].pixels)) and dataset[i].boxes == read[i].boxes
        assert dataset[i].sizes == read[i].sizes


def test_the_cache_of_many_images_writes_no_bar_into_a_log(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = AnomalyDataset([Sample(write("0.png"), 0)] * 100, View(16))
    dataset.fill_cache(2)
    assert dataset.cache is not None and len(dataset.cache) == 100 and capsys.readouterr().err == ""


def test_an_augmentation_does_not_change_the_cache(write: Write) -> None:
    dataset = AnomalyDataset([Sample(write("a.png"), 0)], View(16), Augment([A.Downscale(p=1), A.InvertImg(p=1)]))
    dataset.fill_cache(1)
    before = unwrap(dataset.cache)[0][0].copy()
    unwrap(dataset[0].pixels).zero_()
    assert np.array_equal(unwrap(dataset.cache)[0][0], before)


def test_a_change_of_an_item_does_not_change_the_cache(write: Write) -> None:
    dataset = AnomalyDataset([Sample(write("a.png"), 0)], View(16))
    dataset.fill_cache(1)
    before = unwrap(dataset.cache)[0][0].copy()
    unwrap(dataset[0].pixels).zero_()
    assert np.array_equal(unwrap(dataset.cache)[0][0], before)


def test_augmentations_differ_between_epochs_and_images(write: Write) -> None:
    path = write("a.png")
    dataset = AnomalyDataset([Sample(path, 0)] * 2, View(16), Augment([A.GaussNoise(p=1)]), seed=3)
    first = unwrap(dataset[0].pixels)
    assert torch.equal(unwrap(dataset[0].pixels), first) and not torch.equal(unwrap(dataset[1].pixels), first)
    dataset.epoch.fill_(1)
    assert not torch.equal(unwrap(dataset[0].pixels), first)


def test_a_cropping_augmentation_fills_the_box(write: Write) -> None:
    dataset = AnomalyDataset([Sample(write("a.png"), 0)], View(16, fit="pad"), Augment([A.RandomCrop(8, 8)]))
    assert unwrap(dataset[0].pixels).shape == (1, 3, 8, 8) and dataset[0].boxes == [(0, 0, 8, 8)]


def test_a_tile_of_an_image_is_an_item(write: Write) -> None:
    """The tiles cover the content of each image without padding. The number of a tile decides its augmentation."""
    paths = [write("a.png", (40, 24)), write("b.png", (24, 24))]
    samples = [Sample(path, 0) for path in paths]
    view = View((40, 40), fit="pad", tile=16, overlap=0)
    tiles = Tiles([view.content((40, 24)), view.content((24, 24))], 16, 0)
    dataset = AnomalyDataset(samples, view, tiles=tiles)
    assert len(dataset) == 3 * 2 + 3 * 3
    first, seventh = dataset[0], dataset[6]
    assert (first.samples, seventh.samples) == (samples[:1], samples[1:]) and seventh.index.tolist() == [6]
    pixels = unwrap(first.pixels)
    assert pixels.shape == (1, 3, 16, 16) and first.boxes == [(0, 0, 16, 16)] and first.sizes == [(40, 24)]
    assert np.array_equal(pixels[0].permute(1, 2, 0), read_image(paths[0])[:16, :16])
    dataset.fill_cache(1)
    assert torch.equal(unwrap(dataset[0].pixels), pixels)
    assert torch.equal(unwrap(dataset[6].pixels), unwrap(seventh.pixels))
    noisy = AnomalyDataset([samples[0]] * 2, view, Augment([A.GaussNoise(p=1)]), 0, Tiles([(40, 24)] * 2, 16, 0))
    # Both tiles show the same part of the same file.
    assert not torch.equal(unwrap(noisy[0].pixels), unwrap(noisy[6].pixels))


def test_an_item_has_a_corrupted_image_beside_its_image(write: Write) -> None:
    """The corrupted image equals the image in the padding and outside of the region of interest. It differs in each
    epoch. The unrelated image is its texture."""
    sample, view = Sample(write("a.png", (40, 60)), 0), View(64, fit="pad", roi=(5, 10, 35, 60))
    unrelated = Unrelated(write("photographs/b.png", (40, 40)).parent)
    dataset = AnomalyDataset([sample], view, seed=3, unrelated=unrelated, corrupt=Perlin(opacity=(1.0, 1.0)))
    assert not dataset.is_in_memory and dataset.plain()[0].corrupted is None
    seen = []
    for epoch in range(4):
        dataset.epoch.fill_(epoch)
        item = dataset[0]
        pixels, corrupted, corruption = unwrap(item.pixels), unwrap(item.corrupted), unwrap(item.corruption)
        assert torch.equal(pixels, unwrap(dataset.plain()[0].pixels))
        where = corruption.expand(1, 3, 64, 64)
        assert corruption.shape == (1, 1, 64, 64) and corruption.dtype == torch.bool
        assert torch.equal((corrupted != pixels).any(dim=1, keepdim=True), corruption)
        assert torch.equal(corrupted[where], unwrap(item.unrelated)[where])
        top, left, bottom, right = item.boxes[0]
        assert corruption.sum() == corruption[..., top:bottom, left:right].sum()
        seen.append(corruption.sum().item())
    assert len(set(seen)) > 1 and max(seen) > 0
    dataset.epoch.fill_(0)
    assert unwrap(dataset[0].corruption).sum().item() == seen[0]


def test_corruption_stays_inside_the_mask_of_the_region(write: Write, tmp_path: Path) -> None:
    inside = np.zeros((20, 24), np.uint8)
    inside[4:16, 6:12], inside[10:16, 6:20] = 255, 255
    Image.fromarray(inside).save(tmp_path / "region.png")
    samples, view = [Sample(write("a.png"), 0)], View(None, roi=tmp_path / "region.png")
    dataset = AnomalyDataset(samples, view, corrupt=Perlin())
    for epoch in range(8):
        dataset.epoch.fill_(epoch)
        assert not unwrap(dataset[0].corruption)[0, 0][torch.tensor(inside[4:16, 6:20] == 0)].any()


def test_a_corrupted_tile_has_the_size_of_a_tile(write: Write) -> None:
    tiles = Tiles([(20, 24)], 16, 4)
    dataset = AnomalyDataset(
        [Sample(write("a.png"), 0)], View(None, tile=16), tiles=tiles, corrupt=CutPaste(jitter=1.0)
    )
    masks = [unwrap(dataset[i].corruption) for i in range(len(tiles))]
    assert {mask.shape for mask in masks} == {(1, 1, 16, 16)} and all(mask.any() for mask in masks)
