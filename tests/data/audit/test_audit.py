"""These tests run every check of the audit from Python."""

from pathlib import Path

import numpy as np
from PIL import Image

from lit_ad.data import MVTec
from lit_ad.data.audit.audit import audit_source


def test_a_sound_data_set_has_no_warning_and_no_error(images: Path) -> None:
    samples, report = audit_source(MVTec(images))
    assert len(samples) == 12 + 5 + 4
    assert "10 to train on, 2 held out; test: 5 good, 4 square, each with a mask; 64x72" in report.text
    assert (report.warnings, report.errors, report.duplicates) == ([], [], [])


def test_the_report_names_the_problem_that_each_check_finds(images: Path, tmp_path: Path) -> None:
    for path in images.rglob("*.png"):
        file = tmp_path / "part" / path.relative_to(images)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.read_bytes())
    root = tmp_path / "part"
    masks = [root / f"ground_truth/square/{i:03}_mask.png" for i in range(4)]
    sound = Image.open(masks[0])
    sound.resize((36, 32)).save(masks[0])
    Image.open(masks[1]).resize((18, 16)).resize((72, 64), Image.Resampling.BICUBIC).save(masks[1])
    Image.fromarray(np.zeros((64, 72), np.uint8)).save(masks[2])
    Image.fromarray(255 - np.asarray(Image.open(masks[3]))).save(masks[3])
    (root / "test/good/004.png").write_bytes((root / "train/good/004.png").read_bytes())
    (root / "train/good/005.png").write_bytes(b"no image")
    _, report = audit_source(MVTec(root), threads=2)
    errors, warnings = "\n".join(report.errors), "\n".join(report.warnings)
    assert "cannot read" in errors and "005.png" in errors
    assert (
        f"masks of another size than their image, once (height x width): {masks[0]} (32x36, its image 64x72)" in errors
    )
    assert "masks with grey edges, antialiased or of JPEG" in warnings and masks[1].name in warnings
    assert "masks empty: they mark no defect" in warnings and "masks perhaps inverted" in warnings
    assert "the same file in training and test, once" in warnings and "nearly the same" not in warnings
