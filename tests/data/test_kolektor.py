"""KolektorSDD's and KolektorSDD2's layouts, every image with a mask beside it."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_ad.data import KolektorSDD, KolektorSDD2
from lit_ad.data.datamodule import AnomalyDataModule
from lit_ad.data.masks import read_truth
from lit_ad.data.source import check
from lit_ad.errors import UserError
from lit_ad.view import View


def write_label(path: Path, value: int) -> None:
    """A mask with one pixel of a value."""
    mask = np.zeros((20, 24), np.uint8)
    mask[3, 5] = value
    Image.fromarray(mask).save(path)


@pytest.fixture
def sdd(tmp_path: Path, write) -> Path:
    """Nine items of four parts, of which the second is defective."""
    for item in range(1, 10):
        for part in range(4):
            image = write(f"KolektorSDD/kos{item:02}/Part{part}.jpg")
            write_label(image.with_name(f"Part{part}_label.bmp"), 1 if part == 1 else 0)
    return tmp_path / "KolektorSDD"


@pytest.fixture
def sdd2(tmp_path: Path, write) -> Path:
    for split, count in (("train", 6), ("test", 4)):
        for i in range(count):
            image = write(f"KolektorSDD2/{split}/{i:05}.png")
            write_label(image.with_name(f"{i:05}_GT.png"), 255 if i % 2 else 0)
    return tmp_path / "KolektorSDD2"


def test_folds_by_item(sdd: Path) -> None:
    tested: list[str] = []
    for fold in range(3):
        samples = KolektorSDD(sdd, fold).samples()
        check(samples)
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


def test_an_item_is_not_split_by_validation_either(sdd: Path) -> None:
    for seed in range(5):
        data = AnomalyDataModule(KolektorSDD(sdd), View(16), split_seed=seed, num_workers=0)
        sides = [{sample.item for sample in data.listed[split]} for split in ("train", "val", "test")]
        assert [len(side) for side in sides] == [4, 2, 3] and len(set.union(*sides)) == 9


def test_any_pixel_above_0_is_a_defect(sdd: Path) -> None:
    """Of value 1, which is nearly black."""
    anomalous = [sample for sample in KolektorSDD(sdd).samples() if sample.label]
    assert all(read_truth(sample, (20, 24)).nonzero().tolist() == [[3, 5]] for sample in anomalous)


def test_sdd2_leaves_defects_out_of_training(sdd2: Path) -> None:
    samples = KolektorSDD2(sdd2).samples()
    check(samples)
    assert Counter((s.split, s.label) for s in samples) == {("train", 0): 3, ("test", 0): 2, ("test", 1): 2}
    assert all(
        (s.mask is not None) == bool(s.label) and s.image.stem + "_GT" == getattr(s.mask, "stem", s.image.stem + "_GT")
        for s in samples
    )
    assert KolektorSDD2(sdd2).remarks() == []


def test_the_copies_in_the_published_archive_are_left_out_and_told(sdd2: Path) -> None:
    before = KolektorSDD2(sdd2).samples()
    for name in ("00001", "00001_GT"):
        copy = sdd2 / "train" / f"{name} (copy).png"
        copy.write_bytes((sdd2 / "train" / f"{name}.png").read_bytes())
    assert KolektorSDD2(sdd2).samples() == before
    (said,) = KolektorSDD2(sdd2).remarks()
    assert "00001 (copy).png" in said and "00001_GT (copy).png" in said


def test_what_does_not_fit_is_named(sdd: Path, sdd2: Path) -> None:
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
