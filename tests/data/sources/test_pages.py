"""TIFF files can have several pages: each page is a sample, and the pages of one file are one item."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from lit_ad.batch import Sample
from lit_ad.data import AnomalyDataModule, Folder, Images, Loading, MVTec, Table
from lit_ad.data.audit.inspection import inspect_samples
from lit_ad.data.masks import read_truth
from lit_ad.data.sources.pages import split_pages
from lit_ad.errors import UserError
from lit_ad.image.pixels import read_image
from lit_ad.image.view import View
from lit_ad.training.cache_parts import describe_pixels, find_cacheable

GENERATOR = np.random.default_rng(0)


def stack(path: Path, pages: int, values: Any = None) -> Path:
    """Write a grey TIFF with pages of 20x24 pixels: noise, or one of `values` for each page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = GENERATOR.integers(0, 256, (pages, 20, 24)).astype(np.uint8)
    images = noise if values is None else np.full_like(noise, 1) * np.array(values, np.uint8)[:, None, None]
    tifffile.imwrite(path, images, photometric="minisblack", metadata=None)
    return path


@pytest.fixture
def wafers(tmp_path: Path) -> Path:
    """Write five files of four good pages to train on, and one good and two bad files to test. One bad file has a mask
    for each page."""
    for i in range(5):
        stack(tmp_path / f"wafers/train/good/{i}.tif", 4)
    stack(tmp_path / "wafers/test/good/0.tif", 3)
    stack(tmp_path / "wafers/test/dent/0.tif", 3)
    stack(tmp_path / "wafers/test/dent/1.tif", 2)
    stack(tmp_path / "wafers/ground_truth/dent/0.tif", 3, [255, 0, 255])
    stack(tmp_path / "wafers/ground_truth/dent/1_mask.tif", 1, [255])
    return tmp_path / "wafers"


def test_each_page_is_a_sample_with_its_mask(wafers: Path) -> None:
    splits = AnomalyDataModule(MVTec(wafers), View(16)).splits
    assert {split: len(samples) for split, samples in vars(splits).items()} == {"train": 16, "val": 4, "test": 8}
    assert len({sample.item for sample in splits.val}) == 1  # the pages of one whole file
    assert not {s.item for s in splits.val} & {s.item for s in splits.train}
    dents = [sample for sample in splits.test if sample.label]
    assert [sample.image.relative_to(wafers).as_posix() for sample in dents] == [
        *(f"test/dent/0.tif#{page}" for page in (1, 2, 3)),
        *(f"test/dent/1.tif#{page}" for page in (1, 2)),
    ]
    truths = [read_truth(sample, (20, 24)) for sample in dents]
    assert [int(truth.sum()) for truth in truths if truth is not None] == [480, 0, 480, 480, 480]
    pixels = tifffile.imread(wafers / "test/dent/0.tif")
    assert [np.array_equal(read_image(s.image)[..., 0], page) for s, page in zip(dents[:3], pixels, strict=True)] == (
        [True] * 3
    )


def test_batches_features_and_tiles_are_made_of_pages(wafers: Path) -> None:
    data = AnomalyDataModule(MVTec(wafers), View(None, tile=8, overlap=0), loading=Loading(num_workers=0))
    train = data.train_dataloader().dataset
    assert len(train) == 16 * 9  # type: ignore[arg-type]
    for i in (0, 9, 100):
        batch = train[i]
        assert batch.samples[0].image == data.splits.train[i // 9].image
    rows, loader = next(find_cacheable(data, needs_pixels=False))
    files = describe_pixels(loader.dataset.samples, data.view)["files"]
    assert list(rows) == ["train"] and len(files) == len(set(files)) == 16
    assert all(size == (wafers / "train/good/0.tif").stat().st_size for _, size, _ in files)


def test_the_inspection_counts_pages_and_compares_files(wafers: Path) -> None:
    (wafers / "train/good/9.tif").write_bytes((wafers / "test/good/0.tif").read_bytes())
    report = inspect_samples(AnomalyDataModule(MVTec(wafers), View(16)).splits)
    assert (
        "wafers: 15 to train on, 8 held out; test: 3 good, 5 dent, each with a mask; 20x24, 8-bit grey" in report.text
    )
    assert "pages among these images: 31, of 9 files" in report.text
    copied = f"{wafers}/train/good/9.tif and {wafers}/test/good/0.tif"
    assert report.warnings[0] == f"the same file in training and test, once: {copied}; metrics will be too good"
    assert "masks full: they mark the whole image, 4 times: " in report.warnings[1]
    assert report.warnings[2] == (
        f"masks empty: they mark no defect in an anomalous image, once: {wafers}/ground_truth/dent/0.tif#2"
    )
    assert report.errors == [] and len(report.warnings) == 3


def test_a_damaged_page_is_an_error_that_names_it(wafers: Path) -> None:
    file = wafers / "test/dent/1.tif"
    tifffile.imwrite(file, np.zeros((2, 20, 24), np.uint8), photometric="minisblack", metadata=None, compression="zlib")
    with tifffile.TiffFile(file) as opened:
        offset, count = opened.pages[1].dataoffsets[0], opened.pages[1].databytecounts[0]
    content = bytearray(file.read_bytes())
    content[offset : offset + count] = b"x" * count
    file.write_bytes(content)
    (said,) = inspect_samples(AnomalyDataModule(MVTec(wafers), View(16)).splits).errors
    assert said.startswith(f"cannot read {file}#2: ")


def test_a_mask_with_another_number_of_pages_is_refused(wafers: Path) -> None:
    stack(wafers / "ground_truth/dent/0.tif", 2)
    with pytest.raises(
        UserError, match=r"dent/0.tif has 2 pages and its image .*dent/0.tif 3: a mask has one page for"
    ):
        _ = AnomalyDataModule(MVTec(wafers), View(16)).splits
    one = stack(wafers / "test/dent/0.tif", 1)
    with pytest.raises(UserError, match=r"ground_truth/dent/0.tif has 2 pages, each of them an image"):
        _ = AnomalyDataModule(MVTec(wafers), View(16)).splits
    assert split_pages([Sample(one, 1)]) == [Sample(one, 1)]


def test_the_pages_of_a_single_file_cannot_be_split(tmp_path: Path) -> None:
    stack(tmp_path / "good/a.tif", 9)
    data = AnomalyDataModule(Folder("good", root=tmp_path), View(16))
    with pytest.raises(UserError, match=r"one item to train on, .*a.tif, .* unless a Table has a column item"):
        _ = data.splits


def test_a_table_can_list_pages_and_give_their_items(tmp_path: Path) -> None:
    stack(tmp_path / "film.tif", 8)
    rows: list[dict[str, Any]] = [
        *({"path": f"film.tif#{page}", "split": "train", "label": "good", "item": f"{page}"} for page in range(1, 6)),
        {"path": "film.tif#7", "split": "test", "label": "good", "item": "7"},
        {"path": "film.tif#8", "split": "test", "label": "bad", "item": "8", "box": [0, 0, 12, 10]},
    ]
    table = tmp_path / "film.json"
    table.write_text(json.dumps(rows))
    splits = AnomalyDataModule(Table(tmp_path, "film.json"), View(16)).splits
    assert Counter({split: len(samples) for split, samples in vars(splits).items()}) == {
        "train": 4,
        "val": 1,
        "test": 2,
    }
    truth = read_truth(splits.test[1], (20, 24))
    assert truth is not None and int(truth.sum()) == 120
    for row in rows:
        del row["item"]
    table.write_text(json.dumps(rows))
    with pytest.raises(UserError, match=r"film.tif' in train and in test: .*film.tif#1 and .*film.tif#7; keep"):
        _ = AnomalyDataModule(Table(tmp_path, "film.json"), View(16)).splits
    rows[0]["path"] = "other.tif#1"
    table.write_text(json.dumps(rows))
    with pytest.raises(UserError, match=r"row 1 of .*: there is no file .*other.tif$"):
        Table(tmp_path, "film.json").samples()


def test_each_page_is_an_image_to_predict(wafers: Path) -> None:
    samples = Images(wafers / "test").samples()
    assert len(samples) == 8 and all(sample.label == -1 for sample in samples)
    assert [s.image.name for s in Images(wafers / "test/dent/1.tif").samples()] == ["1.tif#1", "1.tif#2"]
