"""`lit-ad export` on a real run."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lit_ad import Detector
from lit_ad.batch import Sample
from lit_ad.checkpoint import read_checkpoint, write_checkpoint
from lit_ad.commands import export as command
from lit_ad.commands.main import run
from lit_ad.deploy import differences
from lit_ad.detector.decision import Decision
from lit_ad.detector.inputs import read_pixels
from lit_ad.errors import UserError
from lit_ad.image.view import View

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def test_export_compares_on_the_runs_test_images(
    trained: Path, checkpoint: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["export", "--ckpt_path", str(checkpoint), "--format", "onnx"])
    assert "the largest relative difference:\n  batch 1: score" in capsys.readouterr().out
    home = trained / "export"
    assert {path.name for path in home.iterdir()} == {
        "stfpm-fp32.onnx",
        "stfpm-fp32.onnx.json",
        "stfpm-fp32.onnx.example.py",
    }
    report = json.loads((home / "stfpm-fp32.onnx.json").read_text())
    assert set(report["differences"]) == {"batch 1", "batch 4"}
    assert all(value < 1e-4 for values in report["differences"].values() for value in values.values())
    assert len(report["images"]) == 8 and all(str(images / "test") in image for image in report["images"])
    image = images / "test/square/003.png"
    done = subprocess.run(
        [sys.executable, home / "stfpm-fp32.onnx.example.py", image], capture_output=True, text=True, check=True
    )
    found, expected = Detector.load(home / "stfpm-fp32.onnx")(image), Detector.load(trained)(image)
    assert found.score == pytest.approx(expected.score, rel=1e-5)
    assert found.anomaly_map == pytest.approx(expected.anomaly_map, rel=1e-4)
    assert [region.box for region in found.regions] == [region.box for region in expected.regions]
    assert f"score {found.score:.6g}, p-value {found.p_value:.3g}" in done.stdout


def test_an_earlier_export_stays(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "stfpm-fp32.onnx", tmp_path / "stfpm-fp32-2.onnx"
    run(["export", str(trained), "--output", str(tmp_path)])
    before = first.read_bytes()
    run(["export", str(trained), "--output", str(tmp_path)])
    assert "stfpm-fp32.onnx of an earlier export stays as it is" in capsys.readouterr().out
    assert first.read_bytes() == before
    assert Detector.load(second).card.to_dict() == Detector.load(first).card.to_dict()
    assert {path.name for path in tmp_path.glob("*.py")} == {f"{file.name}.example.py" for file in (first, second)}
    with pytest.raises(UserError, match=r"stfpm-fp32\.onnx is an exported file: give the run"):
        run(["export", str(first)])


def test_beyond_tolerance_there_is_no_file(
    trained: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(differences.TOLERANCE, "fp32", 1e-12)
    with pytest.raises(UserError, match=r"differs from the checkpoint: score at batch .* no file was written"):
        run(["export", "--ckpt_path", str(checkpoint), "--format", "onnx", "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("gone", ["run", "config", "images"])
def test_without_the_data_only_int8_asks_for_images(
    gone: str, trained: Path, checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "run"
    file = home / ("alone.ckpt" if gone == "run" else "checkpoints/best.ckpt")
    file.parent.mkdir(parents=True)
    shutil.copy(checkpoint, file)
    if gone == "images":
        config = (trained / "config.yaml").read_text(encoding="utf-8")
        (home / "config.yaml").write_text(config.replace(str(images), str(tmp_path / "moved")), encoding="utf-8")
    run(["export", "--ckpt_path", str(file), "--format", "torch"])
    reason = {"run": "it is in no run", "config": "config.yaml: No such file", "images": "moved"}[gone]
    assert f"The images of {file} are not available (" in (out := capsys.readouterr().out)
    assert reason in out and "8 random images are compared" in out
    report = json.loads((home / "export/stfpm-fp32.pt2.json").read_text())
    assert report["images"] == ["made up"] * 8 and report["differences"]["batch 4"]["anomaly_map"] < 1e-4
    with pytest.raises(UserError, match=rf"int8 is calibrated .* are not available .*{reason}.*: give --nominal"):
        run(["export", "--ckpt_path", str(file), "--precision", "int8", "--images", str(images / "test/square")])
    run(["export", "--ckpt_path", str(file), "--images", str(images / "test/square"), "--format", "torch"])
    assert "random images" not in capsys.readouterr().out
    assert len(json.loads((home / "export/stfpm-fp32-2.pt2.json").read_text())["images"]) == 4


@pytest.mark.parametrize("view", [View(64), View(None, window=(100, 3000)), View(64, fit="pad", roi=(5, 3, 61, 40))])
def test_random_images_fit_the_view(view: View) -> None:
    made = list(command.make_random_images(view, 3))
    for image in made:
        pixels = read_pixels(image, view.levels)
        assert pixels.std() > 20 and view(pixels)[0].ndim == 3
    assert not np.array_equal(made[0], made[1])


def test_a_threshold_set_by_hand_is_printed_where_scores_change(
    checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["export", "--ckpt_path", str(checkpoint), "--output", str(tmp_path)])
    file = tmp_path / "stfpm-fp32.onnx"
    detector = Detector.load(file)
    assert detector.card.decision is not None
    decision = detector.card.decision.with_threshold(7.0)
    by_hand = Detector(detector.network, replace(detector.card, decision=decision))
    held_out = [Sample(path, 0, category="stripes") for path in sorted((images / "train/good").iterdir())[:3]]
    capsys.readouterr()
    card = command.refit_thresholds(by_hand, held_out, file)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "threshold from 3 held-out images: 7 in fp32, 7 in int8"
    assert out[1].startswith("threshold 7, set by hand") and len(out) == 2
    rewritten = Detector.load(file).card.decision
    assert card.decision is not None and rewritten is not None and rewritten.operating_point().threshold == 7.0


def test_thresholds_are_refitted_only_on_the_images_that_set_them(trained: Path, images: Path) -> None:
    """Not on the held-out images if others, as many, more or fewer, have replaced them."""
    detector, held_out = Detector.load(trained), command.find_splits(trained / "config.yaml")[0].val
    assert len(held_out) == 2 and command.is_decision_from(detector, held_out)
    assert detector.card.decision is not None
    scores = [d.score for d in detector(sorted((images / "test/square").iterdir())[:3])]
    for others in (scores, scores[:2], detector.card.decision.scores["stripes"][:1]):
        decision = Decision({"stripes": np.asarray(others)})
        assert not command.is_decision_from(
            Detector(detector.network, replace(detector.card, decision=decision)), held_out
        )


def test_aurocs_of_a_file_without_maps_are_those_of_images(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, test = Detector.load(trained), command.find_splits(trained / "config.yaml")[0].test
    card = replace(checkpoint.card, map_scored=False, decision=None)
    scores_only = Detector(lambda pixels: (None, pixels.astype(np.float32).mean((1, 2, 3))), card)
    by_precision = command.compare_aurocs(scores_only, checkpoint, test)
    assert [list(each) for each in by_precision.values()] == [["image_auroc", "pixel_auroc"], ["image_auroc"]]
    out = capsys.readouterr().out
    assert "image_auroc on 9 test images" in out and "pixel_auroc" not in out


def test_int8_prints_its_aurocs_and_has_its_own_threshold(
    trained: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nncf")
    run(["export", "--ckpt_path", str(checkpoint), "--precision", "int8"])
    out, noise = capsys.readouterr()
    assert "nncf" not in out + noise  # NNCF would log each operation
    assert "image_auroc on 9 test images" in out and "pixel_auroc on 9 test images" in out
    report = json.loads((trained / "export/stfpm-int8.onnx.json").read_text())
    assert set(report["auroc"]) == {"fp32", "int8"} and report["tolerance"] is None
    decisions = [Detector.load(path).card.decision for path in (trained / "export/stfpm-int8.onnx", trained)]
    ours, theirs = (decision.scores["stripes"] for decision in decisions if decision is not None)
    assert len(ours) == len(theirs) == 2 and list(ours) != list(theirs)


@pytest.mark.parametrize(
    ("about", "line"),
    [
        ({"scaled": {"stripes": 1}}, "threshold from 1 held-out image: "),  # the first one sets the scale of the maps
        ({"folds": {"stripes": (1,)}}, "because the trainings of decision.folds set them: run lit-ad recalibrate"),
        ({}, "because images that are gone or were not held out by the run set them: run lit-ad recalibrate"),
    ],
)
def test_int8_thresholds_come_from_the_images_that_set_those_of_fp32(
    about: dict[str, Any],
    line: str,
    trained: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("nncf")
    shutil.copy(trained / "config.yaml", tmp_path)
    splits, _ = command.find_splits(tmp_path / "config.yaml")
    decision = Decision({"stripes": np.array([Detector.load(trained)(splits.val[1].image).score])}, **about)
    state = read_checkpoint(checkpoint)
    state["lit_ad"]["decision"] = decision.to_dict()
    (tmp_path / "checkpoints").mkdir()
    write_checkpoint(state, tmp_path / "checkpoints/best.ckpt")
    run(["export", str(tmp_path), "--precision", "int8"])
    assert line in capsys.readouterr().out


def test_each_command_lists_a_folder_as_predict_does(
    checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Linked folders are read. Hidden ones are not, and a line says so."""
    hidden = tmp_path / "new/.ipynb_checkpoints"
    shutil.copytree(images / "test/good", hidden)
    (tmp_path / "new/line").symlink_to(images / "test/good")
    remark = f"In {tmp_path / 'new'}: hidden files and folders that are left out, 1: {hidden}\n"
    folder, given = str(tmp_path / "new"), ["--ckpt_path", str(checkpoint)]
    run(["recalibrate", *given, "--nominal", folder, "--output", str(tmp_path / "new.ckpt")])
    out = capsys.readouterr().out
    assert remark in out and "\n7 held-out images, false-alarm rate" in out  # 2 held out in training, and 5 new ones
    run(["export", *given, "--images", folder, "--output", str(tmp_path)])
    out = capsys.readouterr().out
    assert remark in out and "on 5 images" in out
    run(["speed", str(checkpoint), "--images", folder, "--batch", "[1]", "--seconds", "0.1"])
    assert remark in capsys.readouterr().out


def test_the_images_of_a_run_of_folds_all_trained(trained: Path, tmp_path: Path) -> None:
    """None of them may set the thresholds of int8."""
    config = (trained / "config.yaml").read_text(encoding="utf-8")
    assert "  folds: null\n" in config
    (tmp_path / "config.yaml").write_text(config.replace("  folds: null\n", "  folds: 3\n"), encoding="utf-8")
    before, after = (command.find_splits(home / "config.yaml")[0] for home in (trained, tmp_path))
    assert before.val and not after.val and len(after.train) == len(before.train) + len(before.val)
