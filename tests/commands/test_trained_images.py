"""No threshold comes from images that the model was trained on."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lit_ad.commands.trained_images import leave_out_trained, refuse_trained
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


def test_a_journals_images_that_trained_are_left_out(
    checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(images / "train", tmp_path / "moved/train")
    for folder in (images, tmp_path / "moved"):
        samples = Images(folder / "train").samples()
        others = leave_out_trained(checkpoint, samples)
        assert len(others) == 2 and {*others} < {*samples}
        assert "10 images on which this model was trained: left out" in capsys.readouterr().out
    with pytest.raises(UserError, match="this model was trained on all 10 images: label more"):
        leave_out_trained(checkpoint, [sample for sample in samples if sample not in others])


@pytest.mark.parametrize("check", [refuse_trained, leave_out_trained])
def test_a_file_without_a_record_prints_that(
    check: Callable[..., Any], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(tmp_path / "deep/alone.onnx", Images(images / "train/good").samples())
    assert "It is unknown on which images" in capsys.readouterr().out
