"""`lit-ad data check`: the page, and the same for programs. tests/data/audit has the faults."""

import json
import shutil
from pathlib import Path

import pytest

from lit_ad.commands.main import run
from lit_ad.errors import UserError


def test_a_sound_data_set(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["data", "check", str(images)])
    said = capsys.readouterr().out
    assert f"{images}: MVTec AD's layout, one category" in said
    assert "12 to train on, 0 held out; test: 5 good, 4 square, each with a mask; 64x72, 8-bit RGB" in said
    assert said.endswith("no errors, no warnings\n") and "give --backbone" in said
    config = images.parent / "config.yaml"
    config.write_text(f"data:\n  source:\n    class_path: lit_ad.data.MVTec\n    init_args:\n      root: {images}\n")
    run(["data", "check", "--config", str(config), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["errors"] == found["warnings"] == [] and found["masks"] == 4
    assert [(one["split"], one["defect"], one["images"]) for one in found["counts"]] == [
        *(("test", "good", 5), ("test", "square", 4), ("train", "good", 12))
    ]


def test_errors_end_in_code_1(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "part"
    shutil.copytree(images, root)
    (root / "train/good/005.png").write_bytes(b"no image")
    for words in ([], ["--json"]):
        with pytest.raises(SystemExit) as stop:
            run(["data", "check", str(root), *words])
        assert stop.value.code == 1
        assert "cannot read" in capsys.readouterr().out


def test_images_unlike_the_others(images: Path, resnet_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["data", "check", str(images), "--backbone", "resnet10t", "--weights", str(resnet_file)])
    assert "Not looked at" not in capsys.readouterr().out


def test_what_to_check(tmp_path: Path) -> None:
    for words in ([], [str(tmp_path), "--config", "x.yaml"]):
        with pytest.raises(UserError, match=r"give either a folder or --config FILE"):
            run(["data", "check", *words])
    config = tmp_path / "config.yaml"
    config.write_text("data: {source: {class_path: MVTek}}\n")
    with pytest.raises(UserError, match=r"data\.source of .*config\.yaml describes no source of images: .*MVTek"):
        run(["data", "check", "--config", str(config)])
    config.write_text("model: x\n")
    with pytest.raises(UserError, match=r"config\.yaml has no data\.source to check"):
        run(["data", "check", "--config", str(config)])
