"""BTAD's layout: 01 has BMP images and PNG masks; 02 has PNG images and PNG masks; 03 has BMP images and BMP masks."""

from collections import Counter
from pathlib import Path

import pytest

from lit_ad.data import BTAD
from lit_ad.data.datamodule import AnomalyDataModule
from lit_ad.data.loading import Loading
from lit_ad.data.masks import read_truth
from lit_ad.data.sources.source import check_samples
from lit_ad.errors import UserError
from lit_ad.image.view import View
from tests.data.conftest import Write
from tests.optional import unwrap

SUFFIXES = {"01": ("bmp", "png"), "02": ("png", "png"), "03": ("bmp", "bmp")}


@pytest.fixture
def btad(tmp_path: Path, write: Write, write_mask: Write) -> Path:
    for product, (image, mask) in SUFFIXES.items():
        root = f"BTech_Dataset_transformed/{product}"
        for i in range(4):
            write(f"{root}/train/ok/{i:04}.{image}")
        write(f"{root}/test/ok/0000.{image}")
        for i in range(2):
            write(f"{root}/test/ko/{i:04}.{image}")
            write_mask(f"{root}/ground_truth/ko/{i:04}.{mask}")
    return tmp_path / "BTech_Dataset_transformed"


def test_each_mask_belongs_to_the_image_with_its_stem(btad: Path) -> None:
    samples = BTAD(btad).samples()
    check_samples(samples)
    assert Counter((s.split, s.category, s.defect) for s in samples) == {
        (split, product, defect): count
        for product in SUFFIXES
        for split, defect, count in (("train", "good", 4), ("test", "good", 1), ("test", "ko", 2))
    }
    masks = {f"{s.category}/{s.image.name}": s.mask.name for s in samples if s.mask}
    assert masks == {f"{p}/000{i}.{a}": f"000{i}.{b}" for p, (a, b) in SUFFIXES.items() for i in range(2)}
    assert [s.split for s in samples] == ["train"] * 12 + ["test"] * 9
    assert all(unwrap(read_truth(s, (20, 24))).sum() == 10 * 12 for s in samples if s.label)


def test_the_root_may_be_the_folder_above_and_the_category_one_product(btad: Path) -> None:
    assert BTAD(btad.parent).samples() == BTAD(btad).samples()
    assert {s.category for s in BTAD(btad, ["03", "01"]).samples()} == {"01", "03"}
    assert BTAD(btad).tasks() == {name: {"category": name} for name in SUFFIXES}
    with pytest.raises(UserError, match=r"no category 04 in .*: there are 01, 02, 03"):
        BTAD(btad, "04").samples()
    with pytest.raises(UserError, match=r"no product in .*: expected folders 01, 02 and 03"):
        BTAD(btad / "01").samples()


def test_a_mask_without_an_image_and_two_files_with_one_name_are_refused(
    btad: Path, write: Write, write_mask: Write
) -> None:
    write_mask(f"{btad.name}/01/ground_truth/ko/0007.png")
    with pytest.raises(UserError, match=r"mask without an image: .*ko/0007.png"):
        BTAD(btad).samples()
    write(f"{btad.name}/03/test/ko/0000.png")
    with pytest.raises(UserError, match=r"two files with one name: .*0000"):
        BTAD(btad, "03").samples()


def test_the_datamodule_loads_btad(btad: Path) -> None:
    data = AnomalyDataModule(BTAD(btad, "01"), View(16), loading=Loading(num_workers=0))
    data.setup("fit")
    assert {split: len(samples) for split, samples in vars(data.splits).items()} == {"train": 3, "val": 1, "test": 3}
    (batch,) = data.test_dataloader()
    assert [int(mask.sum()) for mask in batch.masks] == [120, 120, 0]
