"""These tests read MVTec AD 2 in its published layout."""

from pathlib import Path

import pytest

from lit_ad.data import AnomalyDataModule, MVTecAD2
from lit_ad.errors import UserError
from lit_ad.image.view import View
from tests.data.conftest import Write


@pytest.fixture
def vial(tmp_path: Path, write: Write, write_mask: Write) -> Path:
    for folder, names in {
        "train/good": [f"{i:03}_regular" for i in range(5)],
        "validation/good": [f"{i:03}_regular" for i in range(2)],
        "test_public/good": ["000_regular", "000_overexposed"],
        "test_public/bad": ["000_regular", "000_shift_1", "001_regular"],
        "test_private": ["000_regular", "001_regular"],
        "test_private_mixed": ["000_mixed"],
    }.items():
        for name in names:
            write(f"ad2/vial/{folder}/{name}.png")
            if folder == "test_public/bad":
                write_mask(f"ad2/vial/test_public/ground_truth/bad/{name}_mask.png")
    return tmp_path / "ad2/vial"


def test_each_image_has_its_split_and_its_mask(vial: Path) -> None:
    samples = MVTecAD2(vial).samples()
    assert [(s.split, s.defect, s.label, s.mask is not None) for s in samples] == (
        [("train", "good", 0, False)] * 5
        + [("validation", "good", 0, False)] * 2
        + [("test", "bad", 1, True)] * 3
        + [("test", "good", 0, False)] * 2
    )
    assert samples == MVTecAD2(vial.parent, "vial").samples()
    masks = {s.image.stem: s.mask for s in samples if s.label}
    assert masks["000_shift_1"] == vial / "test_public/ground_truth/bad/000_shift_1_mask.png"
    assert MVTecAD2(vial.parent).tasks() == {"vial": {"category": "vial"}}


def test_the_images_of_the_private_tests_are_only_listed_for_the_submission(
    vial: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = AnomalyDataModule(MVTecAD2(vial), View(16))
    data.setup("fit")
    assert {split: len(samples) for split, samples in vars(data.splits).items()} == {"train": 5, "val": 2, "test": 5}
    assert not any(
        s.image.parent.name.startswith("test_private") for split in vars(data.splits).values() for s in split
    )
    assert "vial: 5 to train on, 2 held out; test: 2 good, 3 bad, each with a mask" in capsys.readouterr().out
    assert MVTecAD2(vial.parent).list_private() == {
        "vial": [
            *(vial / "test_private/000_regular.png", vial / "test_private/001_regular.png"),
            vial / "test_private_mixed/000_mixed.png",
        ]
    }


def test_a_category_without_test_images_can_be_trained(vial: Path) -> None:
    (vial / "test_public").rename(vial / "elsewhere")
    assert {s.split for s in MVTecAD2(vial).samples()} == {"train", "validation"}
    (vial / "test_private_mixed").rename(vial / "too")
    with pytest.raises(UserError, match=r"test_private_mixed is not a folder"):
        MVTecAD2(vial).list_private()


def test_folders_that_do_not_fit_the_layout_are_refused(vial: Path, write: Write, write_mask: Write) -> None:
    write_mask("ad2/vial/test_public/ground_truth/bad/007_regular_mask.png")
    with pytest.raises(UserError, match=r"mask without an image: .*007_regular_mask.png"):
        MVTecAD2(vial).samples()
    write("ad2/vial/test_public/scratch/000.png")
    with pytest.raises(
        UserError, match=r"test_public/scratch is no folder of MVTec AD 2: .* good, bad and ground_truth"
    ):
        MVTecAD2(vial).samples()
    (vial / "validation/good").rename(vial / "validation/bad")
    with pytest.raises(UserError, match=r"validation/good is not a folder"):
        MVTecAD2(vial).samples()
