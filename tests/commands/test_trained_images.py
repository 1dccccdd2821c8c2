"""No threshold comes from images that the model was trained on."""

import shutil
from pathlib import Path

import pytest

from lit_ad.commands.trained_images import refuse_trained
from lit_ad.data.sources.images import Images
from lit_ad.errors import UserError


def test_images_that_trained_are_refused(checkpoint: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"model was trained on 10 of 12 images, such as .*: they score lower than new"):
        refuse_trained(checkpoint, Images(images / "train/good").samples())  # two were held out
    exported = checkpoint.parent.parent / "export/any.onnx"  # of the same run
    with pytest.raises(UserError, match="this model was trained on 10 of 12 images"):
        refuse_trained(exported, Images(images / "train/good").samples())
    refuse_trained(checkpoint, Images(images / "test/good").samples())
    assert capsys.readouterr().out == ""


def test_copies_are_warned_of(
    checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(images / "train", tmp_path / "moved/train")
    refuse_trained(checkpoint, Images(tmp_path / "moved").samples())
    assert (
        "Warning: 10 of 12 images have the name and size of images on which this model was trained"
        in capsys.readouterr().out
    )


def test_a_file_without_a_record_prints_that(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refuse_trained(tmp_path / "deep/alone.onnx", Images(images / "train/good").samples())
    assert "It is unknown on which images" in capsys.readouterr().out
