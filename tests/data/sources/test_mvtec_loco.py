"""These tests read MVTec LOCO AD in its published layout."""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_ad.batch import Sample
from lit_ad.data import AnomalyDataModule, MVTecLOCO
from lit_ad.data.masks import check_masks, read_mask, read_truth
from lit_ad.data.sources.mvtec_loco import ARCHIVE, compute_saturation_area
from lit_ad.errors import UserError
from lit_ad.image.view import View
from tests.data.conftest import Write

CONFIG = [
    {"defect_name": "missing", "pixel_value": 255, "saturation_threshold": 6, "relative_saturation": False},
    {"defect_name": "twice", "pixel_value": 254, "saturation_threshold": 0.5, "relative_saturation": True},
]


def save_mask(file: Path, value: int, *rows: int, size: tuple[int, int] = (20, 24)) -> Path:
    """Save a grey mask whose given rows have a value in their first eight columns."""
    mask = np.zeros(size, np.uint8)
    mask[list(rows), :8] = value
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(file)
    return file


@pytest.fixture
def pushpins(tmp_path: Path, write: Write) -> Path:
    for folder, count in (("train/good", 6), ("validation/good", 2), ("test/good", 3)):
        for i in range(count):
            write(f"loco/pushpins/{folder}/{i:03}.png")
    for kind in ("logical_anomalies", "structural_anomalies"):
        for i in range(2):
            write(f"loco/pushpins/test/{kind}/{i:03}.png")
    root = tmp_path / "loco/pushpins"
    save_mask(root / "ground_truth/logical_anomalies/000/000.png", 255, 1)
    save_mask(root / "ground_truth/logical_anomalies/000/001.png", 254, 1, 2)  # this mask overlaps the first mask
    save_mask(root / "ground_truth/logical_anomalies/001/000.png", 254, 3)
    for i in range(2):
        save_mask(root / f"ground_truth/structural_anomalies/{i:03}/000.png", 255, 4, 9)
    (root / "defects_config.json").write_text(json.dumps(CONFIG))
    return root


def test_each_image_has_its_split_and_its_folder_of_masks(pushpins: Path) -> None:
    samples = MVTecLOCO(pushpins).samples()
    assert [(s.split, s.defect, s.label) for s in samples] == (
        [("train", "good", 0)] * 6
        + [("validation", "good", 0)] * 2
        + [("test", "good", 0)] * 3
        + [("test", "logical_anomalies", 1)] * 2
        + [("test", "structural_anomalies", 1)] * 2
    )
    assert samples == MVTecLOCO(pushpins.parent).samples() == MVTecLOCO(pushpins.parent, "pushpins").samples()
    assert {s.image.stem: s.mask for s in samples if s.defect == "logical_anomalies"} == {
        name: pushpins / "ground_truth/logical_anomalies" / name for name in ("000", "001")
    }
    expected = np.zeros((20, 24), bool)
    expected[1:3, :8] = True
    truth = read_truth(samples[11], (20, 24))
    assert truth is not None and np.array_equal(truth.numpy(), expected)
    assert MVTecLOCO(pushpins.parent).tasks() == {"pushpins": {"category": "pushpins"}}
    assert MVTecLOCO(pushpins).remarks() == []


def test_the_datamodule_trains_on_all_images_of_train(pushpins: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = AnomalyDataModule(MVTecLOCO(pushpins), View(16))
    data.setup("fit")
    assert Counter({split: len(s) for split, s in vars(data.splits).items()}) == {"train": 6, "val": 2, "test": 7}
    assert capsys.readouterr().out == (
        "pushpins: 6 to train on, 2 held out; test: 3 good, 2 logical_anomalies, 2 structural_anomalies, each with a "
        "mask; 20x24, 8-bit RGB\n"
        "  held out are the validation images of the data set, so data.split.val_fraction is not used\n"
    )


def test_each_file_is_a_defect_with_its_own_saturation(pushpins: Path) -> None:
    rules, samples = MVTecLOCO(pushpins.parent).rules(), MVTecLOCO(pushpins.parent).samples()
    assert rules.remarks == () and rules.defects is not None
    found = [rules.defects(sample) for sample in samples if sample.split == "test"]
    areas = [[(int(d.mask.sum()), d.saturation) for d in of or []] for of in found]
    assert areas == [[], [], [], [(8, 6), (16, 8)], [(8, 4)], [(16, 6)], [(16, 6)]]
    assert [np.flatnonzero(d.mask.any(axis=1)).tolist() for d in found[3] or []] == [[1], [1, 2]]


def test_the_saturation_area_follows_from_the_threshold() -> None:
    assert compute_saturation_area(0.5, True, 9) == 4
    assert compute_saturation_area(1.0, True, 9) == 9
    assert compute_saturation_area(0.01, True, 9) == 1  # an area of 0 would divide the overlap by zero
    assert compute_saturation_area(5, False, 9) == 5
    assert compute_saturation_area(50, False, 9) == 9


@pytest.mark.parametrize("named", ["{}.png", "{}_mask.png"])
def test_masks_that_are_files_instead_of_folders_have_no_spro(pushpins: Path, named: str) -> None:
    truth = pushpins / "ground_truth/structural_anomalies"
    for i in range(2):
        (truth / f"{i:03}/000.png").rename(truth / named.format(f"{i:03}"))
        (truth / f"{i:03}").rmdir()
    source = MVTecLOCO(pushpins)
    first = truth / named.format("000")
    said = f"pushpins: no sPRO, since its masks are merged: {first} is one file for all defects of an image, not a "
    assert source.remarks() == list(source.rules().remarks) == [f"{said}folder; {ARCHIVE}"]
    assert next(s.mask for s in source.samples() if s.defect == "structural_anomalies") == first
    assert source.rules().defects(source.samples()[-1]) is None  # type: ignore[misc]


@pytest.mark.parametrize("value", [255, 1])
def test_merged_masks_in_folders_have_no_spro(pushpins: Path, value: int) -> None:
    for file in sorted((pushpins / "ground_truth").rglob("*.png")):
        save_mask(file, value, 1)
    (said,) = MVTecLOCO(pushpins).remarks()
    assert said.startswith(
        f"pushpins: no sPRO, since its masks are merged: all of them have the value {value}, such as "
    )
    assert said.endswith(ARCHIVE)
    if value == 1:
        return
    # The configuration then has no other value than 255.
    (pushpins / "defects_config.json").write_text(json.dumps(CONFIG[:1]))
    assert MVTecLOCO(pushpins).rules().remarks == ()


def test_a_category_without_masks_or_configuration_has_no_spro(pushpins: Path) -> None:
    (pushpins / "defects_config.json").unlink()
    assert MVTecLOCO(pushpins).remarks() == ["pushpins: no sPRO, since there is no defects_config.json in its folder"]
    (pushpins / "ground_truth/structural_anomalies").rename(pushpins / "elsewhere")
    image = pushpins / "test/structural_anomalies/000.png"
    (said,) = MVTecLOCO(pushpins).remarks()
    assert said == f"pushpins: no sPRO, since masks are missing of 2 of 4 anomalous images, such as {image}"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([{"defect_name": "x"}], r"is no list of defects with .*KeyError 'saturation_threshold'"),
        ([{**CONFIG[1], "saturation_threshold": 1.5}], r"saturation_threshold of twice is 1.5, .* share in \(0, 1\]"),
        ([{**CONFIG[0], "saturation_threshold": 0}], r"saturation_threshold of missing is 0, .* 1 pixel or more"),
        ([CONFIG[0], CONFIG[0]], "has two defects of pixel_value 255"),
        (3, "is no list of defects"),
    ],
)
def test_a_wrong_configuration_is_found_before_training(pushpins: Path, wrong: object, said: str) -> None:
    (pushpins / "defects_config.json").write_text(json.dumps(wrong))
    with pytest.raises(UserError, match=rf"{re.escape(str(pushpins))}/defects_config.json:? .*{said}|{said}"):
        MVTecLOCO(pushpins).samples()


@pytest.mark.parametrize(("value", "said"), [(7, "has the values 7, but"), (0, "has the values 0 alone, but")])
def test_a_mask_of_no_defect_is_named(pushpins: Path, value: int, said: str) -> None:
    file = save_mask(pushpins / "ground_truth/logical_anomalies/001/000.png", value, 3)
    rules = MVTecLOCO(pushpins).rules()
    sample = Sample(file, 1, file.parent, "pushpins", "logical_anomalies", "test")
    with pytest.raises(UserError, match=rf"^{re.escape(str(file))} {said}.* 254, 255 in defects_config.json"):
        rules.defects(sample)  # type: ignore[misc]
    data = AnomalyDataModule(MVTecLOCO(pushpins), View(16))
    # The mask is also named before the training.
    with pytest.raises(UserError, match=rf"^{re.escape(str(file))} {said}"):
        data.setup("fit")
    other = save_mask(pushpins / "ground_truth/structural_anomalies/001/000.png", value, 4, 9)
    with pytest.raises(UserError, match=rf"^{re.escape(str(file))} .* \(and 1 other\)$"):
        MVTecLOCO(pushpins).remarks()
    assert other.is_file()


def test_a_mask_in_colours_is_refused(pushpins: Path) -> None:
    file = pushpins / "ground_truth/logical_anomalies/000/000.png"
    Image.open(file).convert("RGB").save(file)
    with pytest.raises(UserError, match=rf"^{re.escape(str(file))} has colours, but a mask of MVTec LOCO AD is grey"):
        MVTecLOCO(pushpins).remarks()


def test_folders_and_masks_that_do_not_fit_the_layout_are_refused(pushpins: Path, write: Write) -> None:
    stray = save_mask(pushpins / "ground_truth/logical_anomalies/007/000.png", 255, 1)
    with pytest.raises(UserError, match=rf"masks without an image: {stray.parent} belongs"):
        MVTecLOCO(pushpins).samples()
    stray.unlink()
    stray.parent.rmdir()
    small = save_mask(pushpins / "ground_truth/logical_anomalies/000/002.png", 255, 1, size=(10, 24))
    with pytest.raises(UserError, match=rf"mask of another size: {small} is 10x24"):
        check_masks(MVTecLOCO(pushpins).samples())
    with pytest.raises(UserError, match=r"masks of one image differ in size: .* but .*: save both at"):
        read_mask(small.parent)
    small.unlink()
    write("loco/pushpins/test/scratch/000.png")
    with pytest.raises(UserError, match=r"test/scratch is no folder of MVTec LOCO AD: .* take the source MVTec"):
        MVTecLOCO(pushpins).samples()
    (pushpins / "validation/good").rename(pushpins / "validation/bad")
    with pytest.raises(UserError, match=r"validation/good is not a folder"):
        MVTecLOCO(pushpins).samples()
