"""`lit-ad predict` writes the same files and verdicts by a run, by its exported file and by its checkpoint alone."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_ad.commands.main import main, run
from lit_ad.errors import UserError

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def new(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in two folders; one of them cannot be read."""
    folder = tmp_path_factory.mktemp("new")
    for name, file in (("a.png", "good/000.png"), ("deep/b.png", "square/003.png"), ("deep/c.png", "good/001.png")):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(images / "test" / file, folder / name)
    (folder / "broken.png").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def of_run(trained: Path, new: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's predictions of these images."""
    output = tmp_path_factory.mktemp("run") / "predictions"
    predict(trained, new, "--predictions.output", output)
    return output


def predict(*words: object) -> str | int | None:
    """Run the command in this process, and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lit-ad", "predict", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
    return stop.value.code


def rows(folder: Path, name: str = "scores.csv") -> list[dict[str, str]]:
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def check(found: Path, expected: Path) -> None:
    """Check that two folders of predictions have the same files, and the same numbers within an export's tolerance."""
    assert files_in(found) == files_in(expected) and len(files_in(found)) == 8
    for row, other in zip(rows(found), rows(expected), strict=True):
        assert {name: row[name] for name in ("path", "verdict", "error")} == {
            name: other[name] for name in ("path", "verdict", "error")
        }
        for name in ("score", "p_value", "threshold"):
            assert row[name] == other[name] == "" or float(row[name]) == pytest.approx(float(other[name]), rel=1e-4)
    for file in (found / "maps").rglob("*.tiff"):
        pair = [np.asarray(Image.open(root / file.relative_to(found))) for root in (found, expected)]
        assert pair[0] == pytest.approx(pair[1], rel=1e-3, abs=1e-4)
    for file in (found / "heatmaps").rglob("*.jpg"):
        pair = [np.asarray(Image.open(root / file.relative_to(found)), float) for root in (found, expected)]
        assert np.abs(pair[0] - pair[1]).mean() < 1


def test_an_exported_file_writes_what_its_run_does(
    trained: Path, new: Path, of_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["export", str(trained), "--output", str(tmp_path)])
    assert predict(tmp_path / "stfpm-fp32.onnx", new) == 1  # one image cannot be read
    assert "4 images: " in capsys.readouterr().out
    check(tmp_path / "predictions", of_run)


def test_an_exported_file_is_compared_with_its_checkpoint_unless_the_user_declines(
    trained: Path, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result is kept in the cache."""
    run(["export", str(trained), "--output", str(tmp_path)])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = [tmp_path / "stfpm-fp32.onnx", new, "--heatmaps.enabled", "false", "--predictions.maps", "false"]
    for more, count in ((["--verify", "false"], 0), ([], 1)):
        predict(*words, *more)
        assert len([*(tmp_path / "cache").rglob("verified/*.json")]) == count
    assert files_in(tmp_path / "predictions-2") == {"scores.csv", "regions.csv"}


def test_a_checkpoint_outside_of_a_run_is_enough(
    checkpoint: Path, new: Path, of_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "alone.ckpt"
    shutil.copy(checkpoint, alone)
    assert predict(alone, new) == 1
    assert "Warning: 2 held-out nominal images allow a false-alarm rate of 0.333" in capsys.readouterr().out
    check(tmp_path / "predictions", of_run)


def test_an_interrupted_prediction_by_a_checkpoint_alone_is_resumed(
    checkpoint: Path, new: Path, of_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first one ends at the second folder, because a file stands in its place."""
    alone, obstacle = tmp_path / "alone.ckpt", tmp_path / "predictions/maps/deep"
    shutil.copy(checkpoint, alone)
    obstacle.parent.mkdir(parents=True)
    obstacle.touch()
    assert "maps/deep" in str(predict(alone, new))
    first = (obstacle.parent / "a.tiff").stat().st_mtime_ns
    obstacle.unlink()
    other = str(predict(alone, new, "--decision.false_alarm", "0.9"))  # its regions are not those of the done images
    assert "predictions has unfinished predictions with other settings of decision: give the same ones" in other
    assert predict(alone, new) == 1  # one image cannot be read
    assert "Resuming in " in capsys.readouterr().out
    assert (obstacle.parent / "a.tiff").stat().st_mtime_ns == first  # it is not judged again
    check(tmp_path / "predictions", of_run)


def test_another_rate_has_a_folder_of_its_own(checkpoint: Path, images: Path, new: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.ckpt"
    run(["recalibrate", str(checkpoint), "--nominal", str(images / "test/good"), "--output", str(alone)])
    for rate in ("0.2", "0.9"):
        assert predict(alone, new, "--decision.false_alarm", rate) == 1
    low, high = ({row["threshold"] for row in rows(tmp_path / name)} for name in ("predictions", "predictions-2"))
    assert max(high) < max(low)
    few, many = (
        sum(int(row["area"]) for row in rows(tmp_path / name, "regions.csv"))
        for name in ("predictions", "predictions-2")
    )
    assert few < many  # pixels in regions above the pixel threshold


def test_without_images_nothing_is_predicted(trained: Path, checkpoint: Path, tmp_path: Path) -> None:
    """The test images do not take their place."""
    assert str(predict(trained)).startswith("lit-ad: predict needs images: lit-ad predict RUN IMAGES")
    alone = tmp_path / "alone.ckpt"
    shutil.copy(checkpoint, alone)
    assert predict(alone) == f"lit-ad: predict needs images: lit-ad predict {alone} IMAGES"
    assert not (trained / "predictions").exists() and not (tmp_path / "predictions").exists()
    with pytest.raises(UserError, match="there is no detector"):
        run(["predict", "nowhere.onnx", "images"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--colour", "red"], "there is no option --colour"),
        (["--heatmaps.heigh", "64"], "there is no option --heatmaps.heigh. Did you mean heatmaps.height?"),
    ],
)
def test_wrong_words_after_an_exported_file_end_in_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.touch()
    with pytest.raises(UserError) as raised:
        run(["predict", str(file), str(tmp_path), *words])
    assert str(raised.value) == f"{message} (lit-ad predict --help)"


def test_an_exported_file_imports_no_training(tmp_path: Path) -> None:
    """Lightning and torchmetrics take seconds to import."""
    script = "import sys, lit_ad.commands.predict; print({'lightning', 'torchmetrics', 'timm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
