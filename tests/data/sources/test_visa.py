"""These tests read VisA in its published layout and in the layout that the authors' script writes."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_ad.data import VisA
from lit_ad.data.datamodule import AnomalyDataModule
from lit_ad.data.loading import Loading
from lit_ad.data.masks import read_truth
from lit_ad.data.sources.source import check_samples
from lit_ad.data.sources.visa import Official
from lit_ad.errors import UserError
from lit_ad.image.view import View
from tests.data.conftest import Write
from tests.optional import unwrap

OBJECTS = ("candle", "pcb1")
Stems = tuple[str, ...]
# The stems of normal and of anomalous training images; all other images are test images.
SPLITS: dict[Official, tuple[Stems, Stems]] = {
    "1cls": (("0000", "0001", "0002"), ()),
    "2cls_highshot": (("0000", "0001"), ("000",)),
    "2cls_fewshot": (("0000",), ("000",)),
}


@pytest.fixture
def visa(tmp_path: Path, write: Write) -> Path:
    """Write two objects, each with four normal and two anomalous images. The masks hold the values 0, 1 and 3."""
    root = tmp_path / "VisA"
    for name in OBJECTS:
        for i in range(4):
            write(f"VisA/{name}/Data/Images/Normal/{i:04}.JPG")
        for i in range(2):
            write(f"VisA/{name}/Data/Images/Anomaly/{i:03}.JPG")
            mask = np.zeros((20, 24), np.uint8)
            mask[2, :5], mask[7, :3] = 1, 3
            path = root / f"{name}/Data/Masks/Anomaly/{i:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)
    for split in SPLITS:
        write_table(root, split)
    return root


def write_table(root: Path, split: Official) -> None:
    (root / "split_csv").mkdir(exist_ok=True)
    with (root / "split_csv" / f"{split}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["object", "split", "label", "image", "mask"])
        for name in OBJECTS:
            for label, folder, count in (("normal", "Normal", 4), ("anomaly", "Anomaly", 2)):
                for i in range(count):
                    stem = f"{i:04}" if label == "normal" else f"{i:03}"
                    side = "train" if stem in SPLITS[split][label == "anomaly"] else "test"
                    mask = f"{name}/Data/Masks/Anomaly/{stem}.png" if label == "anomaly" else ""
                    writer.writerow([name, side, label, f"{name}/Data/Images/{folder}/{stem}.JPG", mask])


@pytest.mark.parametrize("split", SPLITS)
def test_each_official_split_trains_on_normal_images_alone(visa: Path, split: Official) -> None:
    source = VisA(visa, split=split)
    samples = source.samples()
    check_samples(samples)
    nominal, anomalous = map(len, SPLITS[split])
    assert Counter((s.category, s.split, s.defect) for s in samples) == {
        (name, *kind): count
        for name in OBJECTS
        for kind, count in {
            ("train", "good"): nominal,
            ("test", "good"): 4 - nominal,
            ("test", "anomaly"): 2 - anomalous,
        }.items()
    }
    left = 2 * anomalous
    assert source.remarks() == ([f"anomalous training images of {split} are left out: {left}"] if left else [])


def test_every_value_of_a_mask_above_0_is_a_defect(visa: Path) -> None:
    anomalous = [sample for sample in VisA(visa).samples() if sample.label]
    assert len(anomalous) == 4 and all(int(unwrap(read_truth(sample, (20, 24))).sum()) == 8 for sample in anomalous)
    data = AnomalyDataModule(VisA(visa, "candle"), View(16), loading=Loading(num_workers=0))
    (batch,) = data.test_dataloader()
    assert [int(mask.sum()) for mask in batch.masks] == [0, 8, 8]


def test_each_object_is_a_category_and_a_task(visa: Path) -> None:
    assert {s.category for s in VisA(visa, "pcb1").samples()} == {"pcb1"}
    assert VisA(visa).tasks() == {name: {"category": name} for name in OBJECTS}
    assert VisA(visa.parent).samples() == VisA(visa).samples()  # the root may be one folder higher
    with pytest.raises(UserError, match=r"no category nut in .*1cls.csv: there are candle, pcb1"):
        VisA(visa, "nut").samples()


@pytest.mark.parametrize("split", ["1cls", "2cls_highshot"])
def test_the_layout_of_the_authors_script_is_read(
    tmp_path: Path, write: Write, write_mask: Write, split: Official
) -> None:
    """The script is spot-diff's prepare_data.py. In two-class splits, the masks lie in one folder for each split."""
    two = split != "1cls"
    for name in OBJECTS:
        root = f"VisA_pytorch/{split}/{name}"
        for i in range(3):
            write(f"{root}/train/good/{i:04}.JPG")
        write(f"{root}/test/good/0003.JPG")
        write(f"{root}/test/bad/001.JPG")
        write_mask(f"{root}/ground_truth/{'test/' if two else ''}bad/001.png")
        if two:
            write(f"{root}/train/bad/000.JPG")
            write_mask(f"{root}/ground_truth/train/bad/000.png")
    home = tmp_path / "VisA_pytorch"
    samples = VisA(home, split=split).samples()
    check_samples(samples)
    assert Counter((s.category, s.split, s.defect, s.mask is not None) for s in samples) == {
        (name, *kind): count
        for name in OBJECTS
        for kind, count in {("train", "good", False): 3, ("test", "good", False): 1, ("test", "bad", True): 1}.items()
    }
    assert VisA(home / split, split=split).samples() == samples
    other: Official = "2cls_fewshot" if two else "2cls_highshot"
    for folder in (home, home / split):
        with pytest.raises(UserError, match=rf"neither VisA nor its conversion .*split_csv/{other}.csv"):
            VisA(folder, split=other).samples()
    if not two:  # other programs give the folder this name
        (home / split).rename(home / "visa")
        assert len(VisA(home / "visa").samples()) == len(VisA(home).samples()) == len(samples)
        (home / "visa").rename(home / split)
    assert len(VisA(home, split=split).remarks()) == two


def test_wrong_rows_and_missing_files_are_named_in_the_error(visa: Path) -> None:
    table = visa / "split_csv" / "1cls.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, "candle,train,good,candle/x.JPG,"]))
    with pytest.raises(
        UserError, match=rf"row 14 of {table} is candle, train, good, .*: expected object, split, label"
    ):
        VisA(visa).samples()
    table.write_text("\n".join([*lines, "candle,train"]))
    with pytest.raises(UserError, match=r"row 14 of"):
        VisA(visa).samples()
    table.write_text("\n".join(lines))
    (visa / "candle/Data/Masks/Anomaly/001.png").unlink()
    with pytest.raises(UserError, match=r"1cls.csv: there is no file .*candle/Data/Masks/Anomaly/001.png"):
        VisA(visa).samples()
    with pytest.raises(UserError, match=r"neither VisA nor its conversion in .*"):
        VisA(visa / "candle").samples()
