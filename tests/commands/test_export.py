"""`lit-ad export`, `recalibrate` and `speed`, of a real run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lit_ad import Detector
from lit_ad.commands import export as command
from lit_ad.commands import recalibrate, speed
from lit_ad.errors import UserError

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(images: Path, resnet_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home") / "run"
    arguments = ["fit", "--config", ROOT / "configs/stfpm.yaml", "--model.backbone", "resnet10t"]
    arguments += ["--model.weights", resnet_file, "--data.source.root", images, "--model.view.image_size", 64]
    arguments += ["--data.batch_size", 4, "--trainer.max_epochs", 1, "--trainer.default_root_dir", home]
    arguments += ["--trainer.accelerator", "cpu", "--test_after_fit", "false"]
    subprocess.run([sys.executable, "-m", "lit_ad", *map(str, arguments)], check=True, capture_output=True)
    return home


def checkpoint(run: Path) -> Path:
    return run / "checkpoints/best.ckpt"


def test_export_compares_on_the_runs_own_images(run: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.main(["--ckpt_path", str(checkpoint(run)), "--format", "onnx"])
    assert "the largest relative difference:\n  batch 1: score" in capsys.readouterr().out
    home = run / "export"
    assert {path.name for path in home.iterdir()} == {"stfpm-fp32.onnx", "stfpm-fp32.onnx.json", "example.py"}
    report = json.loads((home / "stfpm-fp32.onnx.json").read_text())
    assert set(report["differences"]) == {"batch 1", "batch 4"}
    assert all(value < 1e-4 for values in report["differences"].values() for value in values.values())
    assert len(report["images"]) == 8 and all(str(images / "test") in image for image in report["images"])
    image = images / "test/square/003.png"
    done = subprocess.run([sys.executable, home / "example.py", image], capture_output=True, text=True, check=True)
    found, expected = Detector.load(home / "stfpm-fp32.onnx")(image), Detector.load(run)(image)
    assert found.score == pytest.approx(expected.score, rel=1e-5)
    assert found.anomaly_map == pytest.approx(expected.anomaly_map, rel=1e-4)
    assert [region.box for region in found.regions] == [region.box for region in expected.regions]
    assert f"score {found.score:.6g}, p-value {found.p_value:.3g}" in done.stdout


def test_beyond_tolerance_there_is_no_file(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(command.TOLERANCE, "fp32", 1e-12)
    with pytest.raises(UserError, match=r"differs from the checkpoint, score at batch .* no file was written"):
        command.main(["--ckpt_path", str(checkpoint(run)), "--format", "onnx", "--output", str(tmp_path / "out")])
    assert not list((tmp_path / "out").iterdir())


def test_without_a_run_it_asks_for_images(run: Path, images: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes(checkpoint(run).read_bytes())
    with pytest.raises(UserError, match="no image to compare the exported file on: give --images"):
        command.main(["--ckpt_path", str(alone)])
    command.main(["--ckpt_path", str(alone), "--images", str(images / "test/square"), "--format", "torch"])
    assert (tmp_path / "export/stfpm-fp32.pt2").is_file()


def test_int8_tells_its_cost_and_has_its_own_threshold(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("nncf")
    command.main(["--ckpt_path", str(checkpoint(run)), "--precision", "int8"])
    out = capsys.readouterr().out
    assert "image_auroc on 9 test images" in out and "pixel_auroc on 9 test images" in out
    report = json.loads((run / "export/stfpm-int8.onnx.json").read_text())
    assert set(report["auroc"]) == {"fp32", "int8"} and report["tolerance"] is None
    exported, trained = Detector.load(run / "export/stfpm-int8.onnx"), Detector.load(run)
    assert exported.card.decision is not None and trained.card.decision is not None
    ours, theirs = exported.card.decision.scores["stripes"], trained.card.decision.scores["stripes"]
    assert len(ours) == len(theirs) == 2 and list(ours) != list(theirs)


def test_recalibrate(run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.main(["--ckpt_path", str(checkpoint(run)), "--output", str(tmp_path)])
    for file in (checkpoint(run), tmp_path / "stfpm-fp32.onnx"):
        before = file.read_bytes()
        new = tmp_path / f"new{file.suffix}"
        given = ["--ckpt_path", str(file), "--nominal", str(images / "test/good"), "--false_alarm", "0.2"]
        recalibrate.main([*given, "--output", str(new)])
        assert file.read_bytes() == before
        found, good = Detector.load(new), sorted((images / "test/good").iterdir())
        decision = found.card.decision
        assert decision is not None and decision.false_alarm == 0.2
        assert list(decision.scores["stripes"]) == pytest.approx(sorted(one.score for one in found(good)), rel=1e-5)
        assert len(decision.maxima["stripes"]) == 5
        assert found(good[0]).score == pytest.approx(Detector.load(file)(good[0]).score)
        with pytest.raises(UserError, match="is the file itself"):
            recalibrate.main([*given, "--output", str(file)])
    recalibrate.main([*given, "--false_alarm", "0.005"])
    assert "Warning: 5 held-out nominal images allow a false-alarm rate of 0.167" in capsys.readouterr().out


def test_speed(run: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    speed.main([str(checkpoint(run)), "--batch", "[1,2]", "--seconds", "0.1"])
    out = capsys.readouterr().out
    rows = [line.split(" | ") for line in out.splitlines() if line.startswith("| best.ckpt")]
    assert [row[1:4] for row in rows] == [["PyTorch", "fp32", "1"], ["PyTorch", "fp32", "2"]]
    assert all(float(value.strip(" |")) > 0 for row in rows for value in row[4:])
    assert "Fastest here: PyTorch" in out
    with pytest.raises(UserError, match="there is no detector nowhere"):
        speed.main(["nowhere.onnx"])
