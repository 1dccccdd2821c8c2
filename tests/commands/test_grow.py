"""`lit-ad grow`: a real run is trained on, compared and shipped; and back."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from lit_ad.checkpoint import read_checkpoint
from lit_ad.commands.grow import grow
from lit_ad.commands.journal import journal
from lit_ad.commands.recalibrate import recalibrate
from lit_ad.deploy.journal import Journal
from lit_ad.deploy.journal_file import JournalFile
from lit_ad.deploy.journal_settings import JournalSettings
from lit_ad.deploy.labels import Labels
from lit_ad.deploy.versions import Versions
from lit_ad.detector.detector import Detector
from lit_ad.errors import UserError
from lit_ad.line.comparison import compare
from lit_ad.line.shipping import list_versions


def line(folder: Path, detector: Detector, images: Path, light: float = 0.6, defects: str = "square") -> None:
    """A journal of darker images. Those whose path contains `defects` are labelled defects, and the others good."""
    with Journal(folder, detector, JournalSettings(sample=1), "line") as kept:
        paths = sorted(images.rglob("t*/good/*.png")) + sorted(images.rglob("test/square/*.png"))
        for path in paths:
            pixels = (np.asarray(Image.open(path)) * light).astype(np.uint8)
            kept.record(detector(pixels), 0.1, str(path))
    labels = Labels(folder, 0.05)
    for _, row in JournalFile(folder, alone=False).rows():
        defect = defects in row.name
        labels.add(_, "defect" if defect else "good", "square" if defect else "")
    labels.close()


@pytest.mark.slow  # trains
def test_a_run_grows_and_goes_back(
    trained: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "journal"
    line(folder, Detector.load(trained), images)
    run = tmp_path / "run"  # of a source with a category, as the demo's
    shutil.copytree(trained, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["source"]["init_args"]["category"] = "stripes"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    grow(run, folder, steps=12, ship_worse=True)
    told = capsys.readouterr().out
    assert "12 new" not in told and "Shipped as version 2" in told and "confirmed defects" in told
    new, old = Detector.load(folder / "detector.ckpt"), Detector.load(trained)
    assert new.card.decision is not None and old.card.decision is not None
    assert len(new.card.decision.scores["stripes"]) > len(old.card.decision.scores["stripes"])
    first, second = Versions(JournalFile(folder, alone=False)).all()
    assert (first.state, second.state, second.parent) == ("retired", "shipped", 1)
    assert (folder / "detectors/2/metrics.json").is_file() or not (trained / "metrics.json").is_file()
    journal(folder, rollback=True)
    back = Detector.load(folder / "detector.ckpt")
    assert back.card.decision is not None
    assert np.array_equal(back.card.decision.scores["stripes"], old.card.decision.scores["stripes"])
    capsys.readouterr()
    journal(folder)
    told = capsys.readouterr().out
    assert "version 1: back from version 2" in told and "wrong verdicts" in told
    last = read_checkpoint(folder / "detectors/2/checkpoints/last.ckpt")
    (state,) = last["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert state["batches"] * 4 < state["order"]["items"]  # within an epoch
    line(folder, back, images, 0.5)
    grow(folder / "detectors/2", folder, steps=4, ship_worse=True)  # from a version that was grown, with new images
    assert read_checkpoint(folder / "detectors/3/checkpoints/last.ckpt")["global_step"] == last["global_step"] + 4
    told = capsys.readouterr().out
    assert f"compared with version 1, which is shipped, not with {folder / 'detectors/2'}" in told
    versions = Versions(JournalFile(folder, alone=False)).all()
    assert [version.parent for version in versions] == [None, 1, 1]
    assert json.loads(versions[2].report or "")["grown_from"] == 2
    assert "goes back to version 1" in told and (folder / "detectors/1/images.csv").is_file()
    stop_in_the_middle(run, folder)


def stop_in_the_middle(run: Path, folder: Path) -> None:
    """Ctrl-C leaves a journal as it was, and says what to do. So does a kill, after the next growth has begun."""
    before = list_files(folder), list_versions(folder)
    with growing(run, folder) as process:
        with pytest.raises(UserError, match="another growth runs in"):
            grow(run, folder, steps=1)
        journal(folder)
        assert (folder / "detectors/4").is_dir()
        process.kill()
        process.wait()
    assert (list_files(folder), list_versions(folder)) != before
    with growing(run, folder) as process:
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + signal.SIGINT, told
    assert f"A growth in {folder} was killed. Removed of what it left: detectors/4\n" in told
    assert "The growth was stopped and left nothing" in told and "repeat the command" in told
    assert "--ckpt_path" not in told and "Traceback" not in told
    assert (list_files(folder), list_versions(folder)) == before


def list_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if not path.name.endswith(("-wal", "-shm"))]


@contextmanager
def growing(run: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Grow without end in another process. The block begins when it has written a checkpoint."""
    words = ["grow", str(run), "--journal", str(folder), "--steps", "100000"]
    command = [sys.executable, "-m", "lit_ad", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            checkpoint = folder / "detectors/4/checkpoints/last.ckpt"
            began = time.time()
            while not checkpoint.is_file() or checkpoint.stat().st_mtime < began:  # a killed growth may have left one
                assert process.poll() is None, process.communicate()[0]
                time.sleep(0.2)
            yield process
        finally:
            process.kill()


@pytest.mark.slow  # trains
def test_a_worse_detector_is_not_shipped_unless_the_user_insists(
    trained: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The old detector calls every image anomalous, and so misses no defect. Some defects look like good images, which
    the new detector misses."""
    folder, run = tmp_path / "journal", tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "checkpoints/best.ckpt").unlink()
    recalibrate(trained, threshold=0.0, output=run / "checkpoints/best.ckpt")
    line(folder, Detector.load(run), images, defects="/test/")
    with pytest.raises(UserError, match=r"version 2, .*, is not shipped, because it has more misses \(.* --ship 2`"):
        grow(run, folder, steps=4)
    assert "New images by split: " in capsys.readouterr().out and not (folder / "detector.ckpt").exists()
    refused = Versions(JournalFile(folder, alone=False)).all()
    assert [(version.state, version.parent) for version in refused] == [("judged", None), ("refused", 1)]
    report = json.loads((folder / "detectors/2/growth.json").read_text())
    assert report == json.loads(refused[1].report or "") and report["joined"]["train"] > 0
    journal(folder, ship=2)
    assert (folder / "detector.ckpt").read_bytes() == (folder / "detectors/2/checkpoints/best.ckpt").read_bytes()
    journal(folder, rollback=True)
    grow(run, folder, steps=4, held_out="new", ship_worse=True)
    assert "Shipped as version 3" in capsys.readouterr().out and (folder / "detector.ckpt").is_file()
    states = [version.state for version in Versions(JournalFile(folder, alone=False)).all()]
    assert states == ["retired", "retired", "shipped"]
    grow(folder / "detectors/3", folder, steps=4, ship_worse=True)
    assert "There are no new images" in capsys.readouterr().out

    with pytest.raises(UserError, match=r"makes version 4 again, which is shipped: label more images, .* --ship 4`"):
        grow(folder / "detectors/3", folder, steps=4, ship_worse=True)
    assert [version.parent for version in list_versions(folder)] == [None, 1, 1, 3]
    assert not (folder / "detectors/5").exists()

    def ship_meanwhile(*arguments: Any) -> Any:
        journal(folder, ship=1)
        return compare(*arguments)

    monkeypatch.setattr("lit_ad.commands.grow.compare", ship_meanwhile)
    told = r"version 5, .*, is not shipped, because it was compared with version 4, and version 1 was shipped meanwhile"
    with pytest.raises(UserError, match=told + r"\. Ship it anyway with .* --ship 5`, or grow again"):
        grow(folder / "detectors/3", folder, steps=5, ship_worse=True)
    assert Versions(JournalFile(folder, alone=False)).all()[0].state == "shipped"


def test_a_run_without_a_threshold_cannot_grow(trained: Path, tmp_path: Path) -> None:
    folder, run = tmp_path / "journal", tmp_path / "run"
    shutil.copytree(trained, run)
    saved = torch.load(trained / "checkpoints/best.ckpt", weights_only=True)
    saved["lit_ad"]["decision"] = None
    torch.save(saved, run / "checkpoints/best.ckpt")
    JournalFile(folder, alone=True).close()
    with pytest.raises(
        UserError, match=r"best.ckpt has no threshold, so it cannot be compared: set one with lit-ad re"
    ):
        grow(run, folder, steps=5)
    assert Versions(JournalFile(folder, alone=False)).all() == []


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no journal.sqlite: --journal is DIR"):
        grow(tmp_path, tmp_path, steps=5)
    JournalFile(tmp_path, alone=True).close()
    with pytest.raises(UserError, match=r"has no checkpoints/last.ckpt: give a run's directory"):
        grow(tmp_path, tmp_path, steps=5)
    with pytest.raises(UserError, match="--steps is 0"):
        grow(tmp_path, tmp_path, steps=0)
