"""`lit-ad recalibrate` on a real run, and on its exported file."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_ad import Detector
from lit_ad.checkpoint import read_checkpoint, write_checkpoint
from lit_ad.commands.main import run
from lit_ad.deploy.journal import Journal
from lit_ad.deploy.journal_settings import JournalSettings
from lit_ad.deploy.labels import Labels
from lit_ad.detector.decision import Decision
from lit_ad.errors import UserError

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def test_other_good_images_give_other_thresholds(
    checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["export", "--ckpt_path", str(checkpoint), "--output", str(tmp_path)])
    for file in (checkpoint, tmp_path / "stfpm-fp32.onnx"):
        before = file.read_bytes()
        new = tmp_path / f"new{file.suffix}"
        given = ["--ckpt_path", str(file), "--nominal", str(images / "test/good"), "--false_alarm", "0.2", "--replace"]
        run(["recalibrate", *given, "--output", str(new)])
        assert file.read_bytes() == before
        found, good = Detector.load(new), sorted((images / "test/good").iterdir())
        decision = found.card.decision
        assert decision is not None and decision.false_alarm == 0.2
        assert bool(decision.highest) == (file == checkpoint)  # an exported file names no image
        assert file == checkpoint or str(images).encode() not in new.read_bytes()
        assert list(decision.scores["stripes"]) == pytest.approx(sorted(one.score for one in found(good)), rel=1e-5)
        assert len(decision.maxima["stripes"]) == 5
        assert found(good[0]).score == pytest.approx(Detector.load(file)(good[0]).score)
        with pytest.raises(UserError, match="is the file itself"):
            run(["recalibrate", *given, "--output", str(file)])
    run(["recalibrate", *given, "--false_alarm", "0.005"])
    assert "Warning: 5 held-out nominal images allow a false-alarm rate of 0.167" in capsys.readouterr().out


@pytest.fixture(scope="module")
def files(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The checkpoint and its exported file."""
    home = tmp_path_factory.mktemp("exported")
    run(["export", "--ckpt_path", str(checkpoint), "--output", str(home)])
    return checkpoint, home / "stfpm-fp32.onnx"


def test_a_threshold_set_by_hand_is_used_everywhere(
    files: tuple[Path, Path], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By Detector and by example.py, from the checkpoint, from its export, and from an exported file."""
    image = images / "test/good/000.png"
    for file in files:
        new, before = tmp_path / f"new{file.suffix}", Detector.load(file)(image)
        assert before.anomaly_map is not None
        limit, pixels = before.score - 1e-6, float(np.quantile(before.anomaly_map, 0.9))
        words = ["recalibrate", "--ckpt_path", str(file), f"--threshold={limit}", "--pixel_threshold", str(pixels)]
        capsys.readouterr()
        run([*words, "--output", str(new)])
        out = capsys.readouterr().out
        assert f"threshold {limit:.6g}, set by hand: p-value at most " in out and "of 2 held-out nominal images" in out
        assert f"pixel threshold {pixels:.6g}, set by hand: " in out and "no false-alarm rate is promised" in out
        after = Detector.load(new)(image)
        assert after.anomalous and after.decision is not None and after.mask is not None
        assert after.decision.threshold() == limit and after.decision.pixel_threshold() == pixels
        assert after.mask.mean() == pytest.approx(0.1, abs=0.01)
        assert after.score == before.score and after.p_value == before.p_value  # of the same held-out images
        new.unlink()
        run([*words[:3], f"--threshold={before.score + 1e-6}", "--output", str(new)])
        assert not Detector.load(new)(image).anomalous
        example = new.with_name(f"{new.name}.example.py")
        assert example.is_file() == (file.suffix == ".onnx")
    done = subprocess.run([sys.executable, example, image], capture_output=True, text=True, check=True)
    assert f"{image}: nominal, score" in done.stdout
    new.unlink()
    run([*words[:3], f"--threshold={before.score - 1e-6}", "--output", str(new)])
    done = subprocess.run([sys.executable, example, image], capture_output=True, text=True, check=True)
    assert f"{image}: anomalous, score" in done.stdout
    run(["export", "--ckpt_path", str(tmp_path / "new.ckpt"), "--output", str(tmp_path), "--images", str(image.parent)])
    exported = Detector.load(tmp_path / "stfpm-fp32.onnx").card.decision
    kept = decision_of(tmp_path / "new.ckpt").without_names()
    assert exported is not None and exported.to_dict() == kept.to_dict()


def test_a_rate_or_other_images_replace_a_threshold_set_by_hand(
    files: tuple[Path, Path], images: Path, tmp_path: Path
) -> None:
    file, by_hand, new = files[0], tmp_path / "by_hand.ckpt", tmp_path / "new.ckpt"
    run(["recalibrate", "--ckpt_path", str(file), "--threshold", "-1.5", "--output", str(by_hand)])
    words = ["recalibrate", "--ckpt_path", str(by_hand), "--output", str(new)]
    assert decision_of(by_hand).threshold() == -1.5
    for change in (["--false_alarm", "0.4"], ["--nominal", str(images / "test/good")]):
        new.unlink(missing_ok=True)
        run([*words, *change])
        assert decision_of(by_hand).operating_point().by_hand and not decision_of(new).operating_point().by_hand
    new.unlink()
    run([*words, "--false_alarm", "0.4", "--pixel_threshold", "9"])
    assert decision_of(new).pixel_threshold() == 9 and not decision_of(new).operating_point().by_hand
    pixels = tmp_path / "pixels.ckpt"
    run(["recalibrate", "--ckpt_path", str(new), "--output", str(pixels), "--pixel", "pixel", "--threshold", "9"])
    assert not decision_of(pixels).pixels_by_hand and decision_of(pixels).threshold() == 9


def test_another_rule_for_pixels(
    files: tuple[Path, Path], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rate of pixels comes from the stored scores. Regions of another area need images."""
    new = tmp_path / "new.onnx"
    words = ["recalibrate", "--ckpt_path", str(files[1]), "--output", str(new)]
    run([*words, "--pixel", "pixel", "--pixel_rate", "0.05"])
    decision = Detector.load(new).card.decision
    share = decision.pixel_operating_point().share  # type: ignore[union-attr]
    assert share is not None and 0.04 < share <= 0.05
    assert "of a held-out nominal image's pixels lie above the pixel threshold" in capsys.readouterr().out
    new.unlink()
    region = ["--pixel", "region", "--area", "9"]
    with pytest.raises(
        UserError, match="peaks of held-out maps for regions of 9 pixels, and this model has not kept them"
    ):
        run([*words, *region])
    run([*words, *region, "--nominal", str(images / "test/good"), "--replace"])
    found = Detector.load(new)(images / "test/good/000.png")
    assert found.decision is not None and len(found.decision.peaks["stripes"]) == 5
    assert all(region.area >= 9 for region in found.regions)


def test_nothing_was_chosen_on_other_images(files: tuple[Path, Path], images: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "chosen.ckpt"
    checkpoint = read_checkpoint(files[0])
    decision = replace(decision_of(files[0]), also_chosen={"stripes": ["the epoch"]}, repeated=["stripes"])
    checkpoint["lit_ad"]["decision"] = decision.to_dict()
    write_checkpoint(checkpoint, chosen)
    run(["recalibrate", "--ckpt_path", str(chosen), "--false_alarm", "0.4", "--output", str(tmp_path / "a.ckpt")])
    assert decision_of(tmp_path / "a.ckpt").also_chosen == {"stripes": ["the epoch"]}
    words = ["recalibrate", "--ckpt_path", str(chosen), "--nominal", str(images / "test/good")]
    run([*words, "--output", str(tmp_path / "b.ckpt"), "--replace"])
    assert decision_of(tmp_path / "b.ckpt").also_chosen == {"stripes": []}
    assert not decision_of(tmp_path / "b.ckpt").repeated
    run([*words, "--output", str(tmp_path / "c.ckpt")])
    assert decision_of(tmp_path / "c.ckpt").also_chosen == {
        "stripes": ["the epoch"]
    }  # of the images held out in training
    assert decision_of(tmp_path / "c.ckpt").repeated == ["stripes"]


def test_the_pages_of_a_file_are_not_independent(files: tuple[Path, Path], images: Path, tmp_path: Path) -> None:
    pages = [Image.open(file) for file in sorted((images / "test/good").glob("*.png"))[:2]]
    (tmp_path / "scans").mkdir()
    pages[0].save(tmp_path / "scans/scan.tiff", save_all=True, append_images=pages[1:])
    words = ["recalibrate", "--ckpt_path", str(files[0]), "--nominal", str(tmp_path / "scans"), "--replace"]
    run([*words, "--output", str(tmp_path / "new.ckpt")])
    assert decision_of(tmp_path / "new.ckpt").repeated == ["stripes"]


def test_good_images_join_those_held_out(
    files: tuple[Path, Path], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each counts once, however often it is given. The rate that is kept is printed beside the one asked for."""
    for file in files:
        first, second = tmp_path / f"first{file.suffix}", tmp_path / f"second{file.suffix}"
        more = ["--nominal", str(images / "test/good")]
        run(["recalibrate", str(file), *more, "--output", str(first)])
        out = capsys.readouterr().out
        kept = "12.5 %, the lowest that the held-out images allow (1 % was asked for)"
        assert f"7 held-out images, false-alarm rate {kept}" in out
        run(["recalibrate", str(first), *more, "--output", str(second)])
        assert "5 images have the score of an earlier held-out image: left out" in capsys.readouterr().out
        before, after, again = (Detector.load(each).card.decision for each in (file, first, second))
        assert before is not None and after is not None and again is not None
        assert set(before.scores["stripes"]) < set(after.scores["stripes"]) and len(after.maxima["stripes"]) == 7
        assert list(again.scores["stripes"]) == list(after.scores["stripes"])
    with pytest.raises(UserError, match="--replace needs good images that replace the old ones: give --nominal FOLDER"):
        run(["recalibrate", str(file), "--threshold", "3", "--replace"])


def test_a_journals_good_images_join_those_held_out(
    checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of the detector's category, and those that the service was given without a category."""
    detector, folder = Detector.load(checkpoint), tmp_path / "journal"
    good = sorted((images / "test/good").iterdir())
    with Journal(folder, detector, JournalSettings(sample=1)) as journal:
        for file, category in zip(good, ("", "stripes", "stripes", "dots", ""), strict=True):
            journal.record(detector(file), 0.1, file=file.read_bytes(), category=category)
    labels = Labels(folder, 0.05)
    for number, name in enumerate(("good", "good", "defect", "good", "unsure"), 1):
        labels.add(number, name)
    new = tmp_path / "new.ckpt"
    run(["recalibrate", str(checkpoint), "--nominal", str(folder), "--replace", "--output", str(new)])
    out = capsys.readouterr().out
    assert "images labelled unsure are left out: 1" in out
    assert "1 good image of the random sample of another category, or of none: left out" in out
    expected = sorted(detector(file).score for file in good[:2])
    assert list(decision_of(new).scores["stripes"]) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(
        UserError, match=r"pictures has pictures of all kinds.*: give the journal, --nominal .*/journal"
    ):
        run(["recalibrate", str(checkpoint), "--nominal", str(folder / "pictures")])


def test_thresholds_of_several_categories(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    several = tmp_path / "several.ckpt"
    checkpoint = read_checkpoint(files[0])
    checkpoint["lit_ad"]["decision"] = Decision({"nut": np.arange(9.0), "bolt": np.arange(19.0)}).to_dict()
    write_checkpoint(checkpoint, several)
    words = ["recalibrate", str(several), "--threshold", "3"]
    run([*words, "--category", "nut"])
    first, second = tmp_path / "several-recalibrated.ckpt", tmp_path / "several-recalibrated-2.ckpt"
    assert [decision_of(first).threshold(name) for name in ("nut", "bolt", None)] == [3, 18, 18]
    capsys.readouterr()
    run(words)
    assert [decision_of(second).threshold(name) for name in ("nut", "bolt", None)] == [3, 3, 3]
    assert [decision_of(first).threshold(name) for name in ("nut", "bolt", None)] == [3, 18, 18]
    assert "threshold of bolt 3, set by hand" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"several-recalibrated\.ckpt exists already: give another --output"):
        run([*words, "--output", str(first)])
    for other in (words, ["recalibrate", str(several), "--nominal", str(tmp_path)]):
        with pytest.raises(UserError, match="this model has no category screw: give --category as one of bolt, nut"):
            run([*other, "--category", "screw"])
    assert not (tmp_path / "several-recalibrated-3.ckpt").exists()
    with pytest.raises(UserError, match="no pixel threshold to set"):
        run([*words, "--pixel_threshold", "3"])
    with pytest.raises(UserError, match="nothing to change: give --nominal FOLDER, --false_alarm, --threshold"):
        run(words[:-2])


def decision_of(file: Path) -> Decision:
    return Decision.from_dict(read_checkpoint(file)["lit_ad"]["decision"])


def test_an_output_that_cannot_be_written_is_refused_before_images_are_judged(checkpoint: Path) -> None:
    output = Path("/proc/x", checkpoint.name)
    given = ["--ckpt_path", str(checkpoint), "--nominal", "/nowhere", "--output", str(output)]
    with pytest.raises(UserError, match=r"^cannot write /proc/x: No such file or directory; give another --output$"):
        run(["recalibrate", *given])


def test_the_images_are_judged_on_the_device_that_is_given(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    words = ["recalibrate", "--ckpt_path", str(checkpoint), "--nominal", str(images / "test/good")]
    run([*words, "--device", "cpu", "--output", str(tmp_path / "a.ckpt")])
    with pytest.raises(UserError, match=r"teapot"):
        run([*words, "--device", "teapot", "--output", str(tmp_path / "b.ckpt")])


def test_a_rate_is_kept_with_a_confidence(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "sure.ckpt"
    run(["recalibrate", "--ckpt_path", str(checkpoint), "--confidence", "0.9", "--output", str(output)])
    assert decision_of(output).confidence == 0.9 and decision_of(checkpoint).confidence is None
    without = tmp_path / "without.ckpt"
    run(["recalibrate", "--ckpt_path", str(output), "--confidence", "0", "--output", str(without)])
    assert decision_of(without).confidence is None
    with pytest.raises(UserError, match=r"decision.confidence is a probability between 0 and 1"):
        run(["recalibrate", "--ckpt_path", str(checkpoint), "--confidence", "90", "--output", str(tmp_path / "b.ckpt")])


def test_other_images_belong_to_no_fold(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    content = read_checkpoint(checkpoint)
    content["lit_ad"]["decision"]["folds"] = {"stripes": [1, 1, 1, 1]}
    write_checkpoint(content, tmp_path / "folds.ckpt")
    words = ["recalibrate", "--ckpt_path", str(tmp_path / "folds.ckpt"), "--nominal", str(images / "test/good")]
    for more, folds in (("joined", [1, 1, 1, 1]), ("replaced", [])):
        output = tmp_path / f"{more}.ckpt"
        run([*words, "--output", str(output), *(["--replace"] if more == "replaced" else [])])
        decision = Detector.load(output).card.decision
        assert decision is not None and decision.folds == {"stripes": folds}
