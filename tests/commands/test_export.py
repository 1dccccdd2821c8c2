"""`lit-ad export`, of a real run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lit_ad import Detector
from lit_ad.commands import export as command
from lit_ad.commands.main import run
from lit_ad.errors import UserError

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def test_export_compares_on_the_runs_own_images(
    trained: Path, checkpoint: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["export", "--ckpt_path", str(checkpoint), "--format", "onnx"])
    assert "the largest relative difference:\n  batch 1: score" in capsys.readouterr().out
    home = trained / "export"
    assert {path.name for path in home.iterdir()} == {"stfpm-fp32.onnx", "stfpm-fp32.onnx.json", "example.py"}
    report = json.loads((home / "stfpm-fp32.onnx.json").read_text())
    assert set(report["differences"]) == {"batch 1", "batch 4"}
    assert all(value < 1e-4 for values in report["differences"].values() for value in values.values())
    assert len(report["images"]) == 8 and all(str(images / "test") in image for image in report["images"])
    image = images / "test/square/003.png"
    done = subprocess.run([sys.executable, home / "example.py", image], capture_output=True, text=True, check=True)
    found, expected = Detector.load(home / "stfpm-fp32.onnx")(image), Detector.load(trained)(image)
    assert found.score == pytest.approx(expected.score, rel=1e-5)
    assert found.anomaly_map == pytest.approx(expected.anomaly_map, rel=1e-4)
    assert [region.box for region in found.regions] == [region.box for region in expected.regions]
    assert f"score {found.score:.6g}, p-value {found.p_value:.3g}" in done.stdout


def test_beyond_tolerance_there_is_no_file(
    trained: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(command.TOLERANCE, "fp32", 1e-12)
    with pytest.raises(UserError, match=r"differs from the checkpoint, score at batch .* no file was written"):
        run(["export", "--ckpt_path", str(checkpoint), "--format", "onnx", "--output", str(tmp_path / "out")])
    assert not list((tmp_path / "out").iterdir())


def test_without_a_run_it_asks_for_images(trained: Path, checkpoint: Path, images: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes(checkpoint.read_bytes())
    with pytest.raises(UserError, match="no image to compare the exported file on: give --images"):
        run(["export", "--ckpt_path", str(alone)])
    run(["export", "--ckpt_path", str(alone), "--images", str(images / "test/square"), "--format", "torch"])
    assert (tmp_path / "export/stfpm-fp32.pt2").is_file()


def test_int8_tells_its_cost_and_has_its_own_threshold(
    trained: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nncf")
    run(["export", "--ckpt_path", str(checkpoint), "--precision", "int8"])
    out = capsys.readouterr().out
    assert "image_auroc on 9 test images" in out and "pixel_auroc on 9 test images" in out
    report = json.loads((trained / "export/stfpm-int8.onnx.json").read_text())
    assert set(report["auroc"]) == {"fp32", "int8"} and report["tolerance"] is None
    exported, trained = Detector.load(trained / "export/stfpm-int8.onnx"), Detector.load(trained)
    assert exported.card.decision is not None and trained.card.decision is not None
    ours, theirs = exported.card.decision.scores["stripes"], trained.card.decision.scores["stripes"]
    assert len(ours) == len(theirs) == 2 and list(ours) != list(theirs)


def test_each_command_lists_a_folder_as_predict_does(
    checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Linked folders are looked at, hidden ones are not, and that is told."""
    hidden = tmp_path / "new/.ipynb_checkpoints"
    shutil.copytree(images / "test/good", hidden)
    (tmp_path / "new/line").symlink_to(images / "test/good")
    remark = f"In {tmp_path / 'new'}: hidden files and folders that are left out, 1: {hidden}\n"
    folder, given = str(tmp_path / "new"), ["--ckpt_path", str(checkpoint)]
    run(["recalibrate", *given, "--nominal", folder, "--output", str(tmp_path / "new.ckpt")])
    out = capsys.readouterr().out
    assert remark in out and "\n5 held-out images, false-alarm rate" in out
    run(["export", *given, "--images", folder, "--output", str(tmp_path)])
    out = capsys.readouterr().out
    assert remark in out and "on 5 images" in out
    run(["speed", str(checkpoint), "--images", folder, "--batch", "[1]", "--seconds", "0.1"])
    assert remark in capsys.readouterr().out
