"""The audit guesses the source of a folder where the user names no source."""

from pathlib import Path

import pytest

from lit_ad.data import Images
from lit_ad.data.audit.guess_source import guess_source
from lit_ad.errors import UserError


def test_the_layout_of_a_folder_decides_its_source(images: Path, tmp_path: Path) -> None:
    assert "one category" in guess_source(images)[1]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train").symlink_to(images / "train")
        (tmp_path / "classes/train").mkdir(parents=True, exist_ok=True)
        (tmp_path / "classes/train" / name).symlink_to(images / "train/good")
        (tmp_path / "classes/test").mkdir(exist_ok=True)
        (tmp_path / "classes/test" / name).symlink_to(images / "test/good")
    assert "MVTec AD's layout, 2 categories" in guess_source(tmp_path)[1]
    assert "folders of 2 classes" in guess_source(tmp_path / "classes")[1]
    assert "a folder of images" in guess_source(images / "train/good")[1]
    source, about = guess_source(images / "train")
    assert "at any depth" in about and len(source.samples()) == 12
    with pytest.raises(UserError, match=r"nowhere is not a folder"):
        guess_source(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no image"):
        guess_source(tmp_path / "empty")


def test_a_folder_of_images_and_folders_is_listed_like_the_folder_of_a_prediction(images: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new/a.png").write_bytes((images / "train/good/000.png").read_bytes())
    (tmp_path / "new/line").symlink_to(images / "test")
    source, about = guess_source(tmp_path / "new")
    assert "at any depth" in about
    assert [s.image for s in source.samples()] == [s.image for s in Images(tmp_path / "new").samples()]
    assert len(source.samples()) == 10
    (tmp_path / "new/loop").symlink_to(".")
    assert source.remarks() == [
        f"links to folders that are listed already, and not followed, 1: {tmp_path / 'new/loop'}"
    ]
