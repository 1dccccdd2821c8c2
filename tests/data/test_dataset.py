from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lit_ad.data.dataset import AnomalyDataset, collate, collate_equal, read_image, read_mask
from lit_ad.data.sample import Sample
from lit_ad.data.transforms import A, Augment, Resize

GENERATOR = np.random.default_rng(0)
RGB = GENERATOR.integers(0, 256, (20, 30, 3)).astype(np.uint8)
GREY = GENERATOR.integers(0, 256, (20, 30)).astype(np.uint8)
GREY3 = np.repeat(GREY[..., None], 3, axis=2)
ALPHA = GENERATOR.integers(0, 256, (20, 30)).astype(np.uint8)


def saved(image: Image.Image, path: Path, **kwargs: object) -> np.ndarray:
    image.save(path, **kwargs)
    return read_image(path)


@pytest.mark.parametrize("extension", ["png", "bmp", "tiff", "webp"])
def test_rgb(tmp_path: Path, extension: str) -> None:
    kwargs = {"lossless": True} if extension == "webp" else {}
    image = saved(Image.fromarray(RGB), tmp_path / f"x.{extension}", **kwargs)
    assert image.dtype == np.uint8 and np.array_equal(image, RGB)


@pytest.mark.parametrize("extension", ["png", "bmp", "tiff"])
def test_grey(tmp_path: Path, extension: str) -> None:
    assert np.array_equal(saved(Image.fromarray(GREY), tmp_path / f"x.{extension}"), GREY3)


@pytest.mark.parametrize("extension", ["png", "tiff"])
def test_16_bit_grey(tmp_path: Path, extension: str) -> None:
    wide = Image.fromarray(GREY.astype(np.uint16) * 257)
    assert np.array_equal(saved(wide, tmp_path / f"x.{extension}"), GREY3)
    ends = Image.fromarray(np.array([[0, 65535, 128, 129, 65407]], np.uint16))
    assert saved(ends, tmp_path / f"y.{extension}")[0, :, 0].tolist() == [0, 255, 0, 1, 255]


def test_32_bit_and_float(tmp_path: Path) -> None:
    assert np.array_equal(saved(Image.fromarray(GREY.astype(np.int32) * 257), tmp_path / "i.tiff"), GREY3)
    assert np.array_equal(saved(Image.fromarray(GREY.astype(np.float32) / 255), tmp_path / "f.tiff"), GREY3)
    for values in (GREY.astype(np.float32) * 2, np.full((4, 4), np.nan, np.float32), GREY.astype(np.int32) * 2000):
        with pytest.raises(ValueError, match=r"z.tiff has values from"):
            saved(Image.fromarray(values), tmp_path / "z.tiff")


@pytest.mark.filterwarnings("error")
def test_palette_and_transparency(tmp_path: Path) -> None:
    palette = Image.fromarray(RGB).quantize(64)
    colours = np.asarray(palette.convert("RGB"))
    assert np.array_equal(saved(palette, tmp_path / "p.png"), colours)
    assert np.array_equal(saved(palette, tmp_path / "t.png", transparency=3), colours)
    assert np.array_equal(saved(palette, tmp_path / "b.png", transparency=bytes(range(64))), colours)
    assert np.array_equal(saved(Image.fromarray(np.dstack([RGB, ALPHA])), tmp_path / "a.png"), RGB)
    assert np.array_equal(saved(Image.fromarray(np.dstack([GREY, ALPHA]), "LA"), tmp_path / "la.png"), GREY3)
    assert np.array_equal(saved(Image.fromarray(RGB), tmp_path / "k.png", transparency=(1, 2, 3)), RGB)


def test_one_bit(tmp_path: Path) -> None:
    bits = GREY > 127
    assert np.array_equal(saved(Image.fromarray(bits), tmp_path / "x.png")[..., 1], bits * 255)


def test_cmyk_jpeg(tmp_path: Path) -> None:
    flat = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    image = saved(Image.fromarray(flat).convert("CMYK"), tmp_path / "x.jpg", quality=100)
    assert np.abs(image.astype(int) - flat).max() <= 3


@pytest.mark.parametrize(("orientation", "turned"), [(1, 0), (3, 2), (6, 3), (8, 1)])
@pytest.mark.parametrize("extension", ["png", "tiff"])
def test_exif_turns_the_image(tmp_path: Path, extension: str, orientation: int, turned: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = saved(Image.fromarray(RGB), tmp_path / f"x.{extension}", exif=exif)
    assert np.array_equal(image, np.rot90(RGB, turned))


def test_exif_turns_16_bit_images(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.fromarray(GREY.astype(np.uint16) * 257)
    assert np.array_equal(saved(wide, tmp_path / "x.png", exif=exif), np.rot90(GREY3, 3))


def test_unreadable_and_truncated(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").touch()
    for extension in ("jpg", "png", "tiff", "bmp"):
        path = tmp_path / f"whole.{extension}"
        Image.fromarray(RGB).save(path)
        (tmp_path / f"half.{extension}").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for name in ("text.png", "empty.png", "missing.png", "half.jpg", "half.png", "half.tiff", "half.bmp"):
        with pytest.raises(ValueError, match=rf"cannot read .*{name}: .*; replace or remove it"):
            read_image(tmp_path / name)


def test_pixels_without_rgb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(image: Image.Image, mode: str) -> None:
        raise ValueError("conversion not supported")  # as Pillow does, of modes that differ by its version

    Image.new("LAB", (4, 4)).save(tmp_path / "x.tiff")
    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(ValueError, match=r"x.tiff has pixels of kind LAB"):
        read_image(tmp_path / "x.tiff")


def test_masks_of_every_kind(tmp_path: Path) -> None:
    truth = GREY > 200
    for value in (1, 255):
        grey = Image.fromarray(truth.astype(np.uint8) * value)
        kinds = [grey, grey.convert("RGB"), grey.convert("LA"), grey.convert("RGBA"), Image.fromarray(truth)]
        kinds.append(Image.fromarray(truth.astype(np.uint16) * value))
        for i, kind in enumerate(kinds):
            kind.save(tmp_path / f"{i}.png")
            assert np.array_equal(read_mask(tmp_path / f"{i}.png"), truth), (value, kind.mode)
    palette = Image.fromarray((~truth).astype(np.uint8), "P")  # index 0 is the white one
    palette.putpalette([255, 255, 255, 0, 0, 0])
    palette.save(tmp_path / "p.png")
    assert np.array_equal(read_mask(tmp_path / "p.png"), truth)
    block = np.zeros((32, 32), np.uint8)
    block[5:20, 7:23] = 255
    Image.fromarray(block).save(tmp_path / "block.jpg", quality=75)
    assert np.array_equal(read_mask(tmp_path / "block.jpg"), block > 0)


def test_an_item(write, write_mask) -> None:
    image, mask = write("a.png", (20, 24)), write_mask("a_mask.png", (20, 24))
    dataset = AnomalyDataset([Sample(image, 1, mask, "nut", "dent", "test")], Resize(16))
    item = dataset[0]
    assert item.image.shape == (1, 3, 16, 16) and item.image.dtype == torch.uint8
    assert np.array_equal(item.image[0].permute(1, 2, 0), Resize(16)(read_image(image))[0])
    assert item.label.tolist() == [1] and item.index.tolist() == [0] and item.path == [str(image)]
    assert (item.category, item.defect, item.size, item.box) == (["nut"], ["dent"], [(20, 24)], [(0, 0, 16, 16)])
    assert item.mask[0].dtype == torch.bool and item.mask[0].sum() == 120 and item.mask[0][:10, :12].all()


def test_truth(write, write_mask) -> None:
    image = write("a.png")
    kinds = [Sample(image, 0, split="test"), Sample(image, 1, split="test"), Sample(image, 0), Sample(image, -1)]
    dataset = AnomalyDataset(kinds, Resize(16))
    assert dataset[0].mask[0].shape == (20, 24) and not dataset[0].mask[0].any()
    assert dataset[1].mask == [None]
    assert dataset[2].mask is None and dataset[3].mask is None
    batch = collate([dataset[0], dataset[1]])
    assert batch.mask[0] is not None and batch.mask[1] is None
    assert collate([dataset[1]]).mask == [None]
    assert collate([dataset[2]]).mask is None


def test_mask_of_another_size_names_both(write, write_mask) -> None:
    sample = Sample(write("a.png", (20, 24)), 1, write_mask("m.png", (24, 20)), split="test")
    with pytest.raises(ValueError, match=r"m.png is 24x20 .* its image .*a.png is 20x24"):
        AnomalyDataset([sample], Resize(16))[0]


def test_mask_fits_the_image_turned_upright(tmp_path: Path, write_mask) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    item = AnomalyDataset([Sample(tmp_path / "a.png", 1, write_mask("m.png", (30, 20)), split="test")], Resize(16))[0]
    assert item.size == [(30, 20)] and item.mask[0].shape == (30, 20)


def test_sizes_in_one_batch(write) -> None:
    samples = [Sample(write("a.png", (20, 24)), 0, split="test"), Sample(write("b.png", (30, 16)), 0, split="test")]
    items = [AnomalyDataset(samples, Resize(None))[i] for i in range(2)]
    batch = collate(items)
    assert batch.image.shape == (2, 3, 30, 24)
    for image, item, (top, left, bottom, right) in zip(batch.image, items, batch.box, strict=True):
        assert torch.equal(image[:, top:bottom, left:right], item.image[0])
    assert torch.equal(batch.image[0, :, 20], batch.image[0, :, 18])
    with pytest.raises(ValueError, match=r"\(20, 24\) .*a.png and \(30, 16\) .*b.png: set data.image_size"):
        collate_equal(items)


def test_cache_gives_the_same_items_and_reads_no_more(write) -> None:
    samples = [Sample(write(f"{i}.png"), 0) for i in range(5)]
    dataset = AnomalyDataset(samples, Resize(16, fit="pad"))
    read = [dataset[i] for i in range(5)]
    dataset.fill_cache(2)
    for sample in samples:
        sample.image.unlink()
    for i in range(5):
        assert torch.equal(dataset[i].image, read[i].image) and dataset[i].box == read[i].box
        assert dataset[i].size == read[i].size


def test_augmentation_never_touches_the_cache(write) -> None:
    dataset = AnomalyDataset([Sample(write("a.png"), 0)], Resize(16), Augment([A.Downscale(p=1), A.InvertImg(p=1)]))
    dataset.fill_cache(1)
    before = dataset.cache[0][0].copy()
    dataset[0].image.zero_()
    assert np.array_equal(dataset.cache[0][0], before)


def test_items_never_write_to_the_cache(write) -> None:
    dataset = AnomalyDataset([Sample(write("a.png"), 0)], Resize(16))
    dataset.fill_cache(1)
    before = dataset.cache[0][0].copy()
    dataset[0].image.zero_()
    assert np.array_equal(dataset.cache[0][0], before)


def test_augmentations_differ_by_epoch_and_image(write) -> None:
    path = write("a.png")
    dataset = AnomalyDataset([Sample(path, 0)] * 2, Resize(16), Augment([A.GaussNoise(p=1)]), seed=3)
    first = dataset[0].image
    assert torch.equal(dataset[0].image, first) and not torch.equal(dataset[1].image, first)
    dataset.epoch.fill_(1)
    assert not torch.equal(dataset[0].image, first)


def test_a_cropping_augmentation_fills_the_box(write) -> None:
    dataset = AnomalyDataset([Sample(write("a.png"), 0)], Resize(16, fit="pad"), Augment([A.RandomCrop(8, 8)]))
    assert dataset[0].image.shape == (1, 3, 8, 8) and dataset[0].box == [(0, 0, 8, 8)]
