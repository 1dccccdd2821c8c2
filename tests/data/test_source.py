from pathlib import Path

import pytest

from lit_ad.batch import Sample
from lit_ad.data.source import Source, check, list_images, pair_masks
from lit_ad.errors import UserError


def test_lists_images_sorted_and_ignores_the_rest(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "c.tiff", ".DS_Store", "._a.png", "Thumbs.db", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "d.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.png", "b.JPG", "c.tiff"]


def test_folder_errors_name_the_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere is not a folder"):
        list_images(tmp_path / "nowhere")
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no image in .*empty: it should hold"):
        list_images(tmp_path / "empty")
    (tmp_path / "empty" / "inner" / "a.png").touch()
    with pytest.raises(UserError, match=r"1 lie in folders inside it"):
        list_images(tmp_path / "empty")


def test_two_files_with_one_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UserError, match=r"two files with one name: .*a.jpg and .*a.png"):
        list_images(tmp_path)


def test_masks_are_named_like_their_images_with_or_without_suffix() -> None:
    images = [Path("i/a.jpg"), Path("i/b.jpg"), Path("i/c.jpg"), Path("i/c_mask.jpg")]
    masks = [Path("m/a_mask.png"), Path("m/b.png"), Path("m/c_mask.png")]
    assert pair_masks(images, masks) == {images[0]: masks[0], images[1]: masks[1], images[3]: masks[2]}


def test_mask_errors_name_the_mask() -> None:
    with pytest.raises(UserError, match=r"mask without an image: m/x_mask.png"):
        pair_masks([Path("i/a.jpg")], [Path("m/x_mask.png")])
    with pytest.raises(UserError, match=r"two masks for i/a.jpg: m/a.png and m/a_mask.png"):
        pair_masks([Path("i/a.jpg")], [Path("m/a.png"), Path("m/a_mask.png")])


def test_no_anomalous_image_in_training_and_no_image_twice() -> None:
    good = Sample(Path("x/a.png"), 0)
    check([good, Sample(Path("x/b.png"), 1, defect="dent", split="test")])
    with pytest.raises(UserError, match=r"anomalous image in training: x/b.png \(dent\)"):
        check([good, Sample(Path("x/b.png"), 1, defect="dent")])
    with pytest.raises(UserError, match=r"listed twice: x/a.png, as train/good and as test/good"):
        check([good, Sample(Path("x/a.png"), 0, split="test")])


class Shelf(Source):
    def samples(self) -> list[Sample]:
        return []


def test_a_data_set_is_one_task_unless_its_source_says_otherwise() -> None:
    assert Shelf().tasks() == {"all": {}}
