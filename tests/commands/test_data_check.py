"""`lit-ad data check`: counts, and every kind of fault."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_ad.commands.data_check import far_off, found_source
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


def test_every_fault_is_found(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in images.rglob("*.png"):
        file = tmp_path / "part" / path.relative_to(images)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.read_bytes())
    root = tmp_path / "part"
    masks = [root / f"ground_truth/square/{i:03}_mask.png" for i in range(4)]
    whole = Image.open(masks[0])
    whole.resize((36, 32)).save(masks[0])
    Image.open(masks[1]).resize((18, 16)).resize((72, 64), Image.Resampling.BICUBIC).save(masks[1])
    Image.fromarray(np.zeros((64, 72), np.uint8)).save(masks[2])
    Image.fromarray(255 - np.asarray(Image.open(masks[3]))).save(masks[3])
    (root / "test/good/004.png").write_bytes((root / "train/good/004.png").read_bytes())
    (root / "train/good/005.png").write_bytes(b"no image")
    with pytest.raises(SystemExit) as stop:
        run(["data", "check", str(root), "--json"])
    assert stop.value.code == 1
    found = json.loads(capsys.readouterr().out)
    errors, warnings = "\n".join(found["errors"]), "\n".join(found["warnings"])
    assert "cannot read" in errors and "005.png" in errors
    assert (
        f"masks of another size than their image, 1 times (height x width): {masks[0]} (32x36, its image 64x72)"
        in errors
    )
    assert "masks with grey edges, antialiased or of JPEG" in warnings and masks[1].name in warnings
    assert "masks empty: they mark no defect" in warnings and "masks perhaps inverted" in warnings
    assert "the same file in training and test, once" in warnings and "nearly the same" not in warnings


def test_images_unlike_the_others(
    images: Path, tmp_path: Path, resnet_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)
    for i in range(30):
        noise = generator.integers(0, 40, (64, 64, 3)) + (100 if i != 17 else 0)
        noise[:32] += 100 if i == 17 else 0
        Image.fromarray(noise.astype(np.uint8)).save(tmp_path / f"{i:02}.png")
    run(["data", "check", str(tmp_path), "--backbone", "resnet10t", "--weights", str(resnet_file)])
    said = capsys.readouterr().out
    assert f"unlike the others by resnet10t's features, 1 of 30: {tmp_path / '17.png'};" in said
    assert not len(far_off(generator.normal(size=(200, 16))))


def test_how_a_folder_is_taken(images: Path, tmp_path: Path) -> None:
    assert "one category" in found_source(images)[1]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train").symlink_to(images / "train")
        (tmp_path / "classes/train").mkdir(parents=True, exist_ok=True)
        (tmp_path / "classes/train" / name).symlink_to(images / "train/good")
        (tmp_path / "classes/test").mkdir(exist_ok=True)
        (tmp_path / "classes/test" / name).symlink_to(images / "test/good")
    assert "MVTec AD's layout, 2 categories" in found_source(tmp_path)[1]
    assert "a folder for each of 2 classes" in found_source(tmp_path / "classes")[1]
    assert "a folder of images" in found_source(images / "train/good")[1]
    source, kind = found_source(images / "train")
    assert "at any depth" in kind and len(source.samples()) == 12
    with pytest.raises(UserError, match=r"nowhere is no folder"):
        found_source(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"give either a folder or --config FILE"):
        run(["data", "check"])
