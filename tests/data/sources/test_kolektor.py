"""KolektorSDD's and KolektorSDD2's layouts: every image has a mask beside it."""

import pickle
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lit_ad.data import KolektorSDD, KolektorSDD2, Split
from lit_ad.data.datamodule import AnomalyDataModule
from lit_ad.data.loading import Loading
from lit_ad.data.masks import read_truth
from lit_ad.data.sources.source import check_samples
from lit_ad.errors import UserError
from lit_ad.image.view import View
from tests.data.conftest import Write
from tests.optional import unwrap


def write_label(path: Path, value: int) -> None:
    """Write a mask that has one pixel of a given value."""
    mask = np.zeros((20, 24), np.uint8)
    mask[3, 5] = value
    Image.fromarray(mask).save(path)


@pytest.fixture
def sdd(tmp_path: Path, write: Write) -> Path:
    """Write nine items of four parts each; the second part of each item is defective."""
    for item in range(1, 10):
        for part in range(4):
            image = write(f"KolektorSDD/kos{item:02}/Part{part}.jpg")
            write_label(image.with_name(f"Part{part}_label.bmp"), 1 if part == 1 else 0)
    return tmp_path / "KolektorSDD"


@pytest.fixture
def sdd2(tmp_path: Path, write: Write) -> Path:
    for split, count in (("train", 6), ("test", 4)):
        for i in range(count):
            image = write(f"KolektorSDD2/{split}/{i:05}.png")
            write_label(image.with_name(f"{i:05}_GT.png"), 255 if i % 2 else 0)
    return tmp_path / "KolektorSDD2"


def test_each_item_is_tested_in_one_of_three_folds(sdd: Path) -> None:
    tested: list[str] = []
    for fold in range(3):
        samples = KolektorSDD(sdd, fold).samples()
        check_samples(samples)
        items = defaultdict(set)
        for sample in samples:
            items[sample.split].add(sample.item)
        assert len(items["train"]) == 6 and len(items["test"]) == 3 and not items["train"] & items["test"]
        assert Counter((s.split, s.label, s.defect) for s in samples) == {
            ("train", 0, "good"): 6 * 3,
            ("test", 0, "good"): 3 * 3,
            ("test", 1, "defect"): 3,
        }
        tested += sorted(items["test"])
    assert sorted(tested) == [f"kos{item:02}" for item in range(1, 10)]
    assert KolektorSDD(sdd.parent, 2).samples() == samples
    assert KolektorSDD(sdd).tasks() == {f"fold_{fold}": {"fold": fold} for fold in range(3)}


def test_validation_does_not_split_an_item(sdd: Path) -> None:
    for seed in range(5):
        data = AnomalyDataModule(KolektorSDD(sdd), View(16), split=Split(seed=seed), loading=Loading(num_workers=0))
        sides = [{sample.item for sample in getattr(data.splits, split)} for split in ("train", "val", "test")]
        assert [len(side) for side in sides] == [4, 2, 3] and len(set.union(*sides)) == 9


def test_any_pixel_above_0_is_a_defect(sdd: Path) -> None:
    """The pixel has the value 1, which is nearly black."""
    anomalous = [sample for sample in KolektorSDD(sdd).samples() if sample.label]
    assert all(unwrap(read_truth(sample, (20, 24))).nonzero().tolist() == [[3, 5]] for sample in anomalous)


def test_sdd2_has_no_defects_in_training(sdd2: Path) -> None:
    samples = KolektorSDD2(sdd2).samples()
    check_samples(samples)
    assert Counter((s.split, s.label) for s in samples) == {("train", 0): 3, ("test", 0): 2, ("test", 1): 2}
    assert all(
        (s.mask is not None) == bool(s.label) and s.image.stem + "_GT" == getattr(s.mask, "stem", s.image.stem + "_GT")
        for s in samples
    )
    assert KolektorSDD2(sdd2).remarks() == []


def test_the_copies_in_the_published_archive_are_left_out_and_reported(sdd2: Path) -> None:
    before = KolektorSDD2(sdd2).samples()
    for name in ("00001", "00001_GT"):
        copy = sdd2 / "train" / f"{name} (copy).png"
        copy.write_bytes((sdd2 / "train" / f"{name}.png").read_bytes())
    assert KolektorSDD2(sdd2).samples() == before
    (said,) = KolektorSDD2(sdd2).remarks()
    assert "00001 (copy).png" in said and "00001_GT (copy).png" in said


def test_missing_masks_images_and_items_are_named_in_the_error(sdd: Path, sdd2: Path) -> None:
    (sdd / "kos04" / "Part2_label.bmp").unlink()
    with pytest.raises(UserError, match=r"image without a mask: .*kos04/Part2.jpg has no Part2_label beside it"):
        KolektorSDD(sdd).samples()
    (sdd2 / "test" / "00003.png").unlink()
    with pytest.raises(UserError, match=r"mask without an image: .*test/00003_GT.png"):
        KolektorSDD2(sdd2).samples()
    with pytest.raises(UserError, match=r"no item in .*: expected folders kos01"):
        KolektorSDD(sdd2).samples()
    with pytest.raises(UserError, match=r"fold is 3, but it must be 0, 1 or 2"):
        KolektorSDD(sdd, 3)


def write_splits(path: Path, protocol: int, rows: bool = False) -> list[list[str]]:
    """Write a file of splits in the format of the authors: each fold tests three items in a row."""
    names = [f"kos{number:02}" for number in range(1, 10)]
    test = [names[start : start + 3] for start in (0, 3, 6)]
    train = [[name for name in names if name not in fold] for fold in test]
    marked = [[[(name, True) for name in fold] for fold in folds] for folds in (train, test)]
    path.write_bytes(pickle.dumps(tuple(marked) if rows else [train, test, names], protocol))
    return test


@pytest.mark.parametrize(("protocol", "rows"), [(0, False), (2, False), (5, False), (4, True)])
def test_the_folds_of_the_authors_file_are_used(sdd: Path, tmp_path: Path, protocol: int, rows: bool) -> None:
    test = write_splits(tmp_path / "split.pyb", protocol, rows)
    for fold, wanted in enumerate(test):
        samples = KolektorSDD(sdd, fold, tmp_path / "split.pyb").samples()
        check_samples(samples)
        assert sorted({sample.item for sample in samples if sample.split == "test"}) == wanted
        assert len({sample.item for sample in samples if sample.split == "train"}) == 6


class Harm:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("harm"),)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (Harm(), r"needs pathlib\.\w*\.?Path.touch|needs builtins.getattr"),
        (np.array(["kos01"]), r"needs numpy\._?core.multiarray._reconstruct"),
        ([["kos01"], ["kos02"]], "expected 3 lists of names"),
        ([[[1]] * 3, [[2]] * 3], "not subscriptable"),
        ("kos", "expected 3 lists of names"),
        (7, "cannot unpack"),
    ],
)
def test_a_file_of_splits_that_holds_other_objects_than_lists_is_refused(
    sdd: Path, tmp_path: Path, content: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "split.pyb"
    file.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=rf"^{file} is not the authors' split.pyb .*({said})"):
        KolektorSDD(sdd, 0, file).samples()
    assert not (tmp_path / "harm").exists()
    file.write_bytes(file.read_bytes()[:5])
    with pytest.raises(UserError, match=rf"^{file} is not the authors' split.pyb "):
        KolektorSDD(sdd, 0, file).samples()


def test_a_file_of_splits_that_does_not_fit_the_items_is_refused(sdd: Path, tmp_path: Path) -> None:
    file = tmp_path / "split.pyb"
    names = [f"kos{number:02}" for number in range(1, 10)]
    for train, test, said in (
        (names, names[:3], "has kos01 in training and in test"),
        (names[3:8], names[:3], "has kos09 in neither"),
        ([*names[3:], "kos99"], names[:3], "has kos99 which is not there"),
    ):
        file.write_bytes(pickle.dumps(([train] * 3, [test] * 3, names)))
        with pytest.raises(UserError, match=rf"^fold 1 of {file} {said}"):
            KolektorSDD(sdd, 1, file).samples()
    with pytest.raises(UserError, match=r"there is no file .*none.pyb"):
        KolektorSDD(sdd, 1, tmp_path / "none.pyb").samples()
