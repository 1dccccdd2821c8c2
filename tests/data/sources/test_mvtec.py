from collections import Counter
from pathlib import Path

import pytest

from lit_ad.data import MVTec
from lit_ad.data.sources.source import check_samples
from lit_ad.errors import UserError
from tests.data.conftest import Write


def test_a_root_that_is_one_category_is_listed(bottle: Path) -> None:
    samples = MVTec(bottle).samples()
    assert Counter((s.split, s.defect, s.label, s.category) for s in samples) == {
        ("train", "good", 0, "bottle"): 10,
        ("test", "good", 0, "bottle"): 3,
        ("test", "broken", 1, "bottle"): 2,
    }
    masks = {s.image.name: s.mask for s in samples if s.defect == "broken"}
    assert masks == {"000.png": bottle / "ground_truth/broken/000_mask.png", "001.png": None}
    assert [s.split for s in samples] == ["train"] * 10 + ["test"] * 5


def test_a_root_of_categories_is_listed(bottle: Path, write: Write) -> None:
    write("cable/train/good/0.bmp")
    root = bottle.parent
    (root / "licence").mkdir()
    assert {s.category for s in MVTec(root).samples()} == {"bottle", "cable"}
    assert {s.category for s in MVTec(root, "cable").samples()} == {"cable"}
    assert [s.category for s in MVTec(root, ["cable", "bottle"]).samples()][:2] == ["cable", "bottle"]
    with pytest.raises(UserError, match=r"no category nut in .*: there are bottle, cable"):
        MVTec(root, ["cable", "nut"]).samples()


def test_a_category_that_does_not_fit_the_root_is_refused(bottle: Path, tmp_path: Path) -> None:
    assert len(MVTec(bottle, "bottle").samples()) == 15
    with pytest.raises(UserError, match=r"is itself one category"):
        MVTec(bottle, "cable").samples()
    with pytest.raises(UserError, match=r"no nominal image in .*nowhere: expected train/good"):
        MVTec(tmp_path / "nowhere").samples()


def test_each_category_is_a_task(bottle: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("cable/train/good/0.bmp")
    root = bottle.parent
    tasks = MVTec(root).tasks()
    assert tasks == {"bottle": {"category": "bottle"}, "cable": {"category": "cable"}}
    for name, arguments in tasks.items():  # each task makes a source of that category alone
        assert {s.category for s in MVTec(root, **arguments).samples()} == {name}
    assert MVTec(root, ["cable"]).tasks() == {"cable": {"category": "cable"}}
    assert MVTec(bottle).tasks() == {"bottle": {}}  # root is the category: nothing to choose
    monkeypatch.chdir(bottle)
    assert MVTec(Path()).tasks() == {"bottle": {}}
    with pytest.raises(UserError, match=r"no category nut in .*: there are bottle, cable"):
        MVTec(root, ["nut"]).tasks()


def test_an_empty_training_folder_is_refused(bottle: Path) -> None:
    for image in (bottle / "train" / "good").iterdir():
        image.unlink()
    with pytest.raises(UserError, match=r"no image in .*train/good"):
        MVTec(bottle).samples()


def test_a_mask_without_an_image_is_refused(bottle: Path, write_mask: Write) -> None:
    write_mask("bottle/ground_truth/broken/7_mask.png")
    with pytest.raises(UserError, match=r"mask without an image: .*broken/7_mask.png"):
        MVTec(bottle).samples()


def test_a_folder_of_masks_needs_the_name_of_its_folder_of_images(
    bottle: Path, write: Write, write_mask: Write
) -> None:
    write("bottle/test/colour/0.png")
    (bottle / "ground_truth/color").mkdir()
    assert len(MVTec(bottle).samples()) == 16  # the folder is empty, so no mask is lost
    write_mask("bottle/ground_truth/color/0_mask.png")
    with pytest.raises(UserError) as caught:
        MVTec(bottle).samples()
    assert str(caught.value) == (
        f"masks without images: there is no folder test/color for {bottle}/ground_truth/color; a folder of masks "
        "needs the name of its folder of images, such as ground_truth/colour for test/colour"
    )


@pytest.mark.parametrize(
    "name", ["groundtruth", "ground-truth", "Ground_Truth", "ground_thruth", "GroundTruth", "gt", "masks"]
)
def test_a_misspelled_ground_truth_folder_is_reported(bottle: Path, name: str) -> None:
    """Without the message, nobody would notice that the masks are missing: an image may lack a mask."""
    assert MVTec(bottle).remarks() == MVTec(bottle.parent).remarks() == []
    (bottle / "ground_truth").rename(bottle / name)
    said = [f"{bottle / name} is not read: it should be called ground_truth"]
    assert MVTec(bottle).remarks() == MVTec(bottle.parent).remarks() == said


def test_folders_with_unrelated_names_are_not_reported(bottle: Path) -> None:
    for name in ("validation", "models", "runs"):
        (bottle / name).mkdir()
    (bottle / "ground_truth").rename(bottle / "old")
    assert MVTec(bottle).remarks() == []
    (bottle / "test").rename(bottle / "tests")
    assert MVTec(bottle).remarks() == [f"{bottle / 'tests'} is not read: it should be called test"]


def test_masks_of_good_images_are_listed_for_the_inspection(bottle: Path, write_mask: Write) -> None:
    mask = write_mask("bottle/ground_truth/good/001_mask.png")
    assert [s.mask for s in MVTec(bottle).samples() if s.label == 0 and s.mask] == [mask]
    assert all(s.mask is None for s in MVTec(bottle).samples() if s.split == "train")


def test_a_training_folder_of_anomalous_images_is_refused(bottle: Path, write: Write) -> None:
    write("bottle/train/dent/x.png")
    with pytest.raises(UserError, match=r"anomalous image in training: .*train/dent/x.png"):
        check_samples(MVTec(bottle).samples())


@pytest.mark.parametrize(
    ("name", "train", "good", "defective"),
    [("hazelnut_toy", 28, 6, 17), ("magnetic_tile", 761, 191, 388), ("glass_fibre", 60, 18, 20)],
)
def test_real_data_sets_have_the_known_numbers_of_images(
    shared: Path, name: str, train: int, good: int, defective: int
) -> None:
    samples = MVTec(shared / "data" / name).samples()
    counts = Counter((s.split, s.label) for s in samples)
    assert counts == {("train", 0): train, ("test", 0): good, ("test", 1): defective}
    assert all((s.mask is not None) == (s.label == 1) for s in samples)


def test_masks_among_test_images_are_refused(bottle: Path, write_mask: Write) -> None:
    mask = write_mask("bottle/test/broken/000_mask.png")
    with pytest.raises(UserError, match=r"test/broken/000_mask.png has the name of a mask of 000.png: masks belong in"):
        MVTec(bottle).samples()
    mask.unlink()
    write_mask("bottle/test/broken_mask/000.png")
    with pytest.raises(
        UserError, match=r"test/broken_mask has the name of a folder of masks: masks belong in .*ground_truth/"
    ):
        MVTec(bottle).samples()
