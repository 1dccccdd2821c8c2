"""The files that a test writes for its page: pictures of every image, held-out scores, time, memory; and the page."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from lit_ad.batch import Batch, Prediction, Sample
from lit_ad.data import AnomalyDataModule, MVTec, Split
from lit_ad.detector.decision import Decision
from lit_ad.detector.painter import TRUTH
from lit_ad.detector.scoring import Judgement
from lit_ad.evaluation import Evaluation, Report
from lit_ad.evaluation.judged import judge_image
from lit_ad.evaluation.report.record import Record
from lit_ad.evaluation.report.stopwatch import TrainingRecord
from lit_ad.evaluation.report.thumbnails import Thumbnails
from lit_ad.evaluation.sinks.report import make_thumbnails
from lit_ad.image.view import View
from lit_ad.training import Calibration
from tests.optional import unwrap


def decoded(data: bytes | None) -> np.ndarray:
    assert data is not None
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels


def test_a_test_writes_its_page_and_the_files_for_it(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Callable[..., Any]
) -> None:
    model, data = brightness(), AnomalyDataModule(MVTec(parts), View(None), batch_size=4, split=Split(0.3))
    evaluation = Evaluation()
    callbacks = [Calibration(0.2), evaluation, TrainingRecord(), Report()]
    trainer = quiet_trainer(tmp_path / "run", *callbacks)
    trainer.fit(model, datamodule=data)
    (tmp_path / "run/.thumbnails.zip.0.part").write_text("of a test that was killed")
    trainer.test(model, datamodule=data, verbose=False)
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_file()) == [
        *("metrics.json", "record.json", "report.html", "scores.csv", "thumbnails.zip")
    ]
    found, results = Thumbnails(tmp_path / "run"), evaluation.results
    assert results is not None and len(results.images) == 18
    for one in results.images:
        image = decoded(found(one.path, "image"))
        assert np.abs(image.mean() - unwrap(cv2.imread(one.path)).mean()) < 3
        assert decoded(found(one.path, "heat")).shape == image.shape == (24, 36, 3)
        assert (found(one.path, "truth") is not None) == bool(one.label)
    record = Record.load(tmp_path / "run")
    assert record is not None and record.training is not None and record.test is not None
    assert record.method == "Brightness"
    assert record.held_out == {category: held.tolist() for category, held in model.decision.scores.items()}
    assert (record.training.images, record.test.images) == (14, 18)
    assert 0 < record.test.seconds < 600 and not record.training.resumed
    assert record.test.memory is not None and 2**26 < record.test.memory < 2**36
    text = " ".join((tmp_path / "run/report.html").read_text().split())
    assert "Brightness, 18 test images, thresholds set for 25 % false alarms" in text  # 3 held-out images of each
    # A test anew keeps what is known of the training.
    quiet_trainer(tmp_path / "run", *callbacks).test(model, datamodule=data, verbose=False)
    again = Record.load(tmp_path / "run")
    assert again is not None and again.training == record.training and again.test != record.test


def test_a_page_without_a_decision(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Callable[..., Any]
) -> None:
    data = AnomalyDataModule(MVTec(parts), View(None), batch_size=4)
    quiet_trainer(tmp_path / "run", Evaluation(), Report()).test(brightness(), datamodule=data, verbose=False)
    text = (tmp_path / "run/report.html").read_text()
    assert "no held-out image was scored by the checkpoint's weights" in text
    assert json.loads((tmp_path / "run/record.json").read_text())["held_out"] == {}


def test_a_test_that_fails_leaves_no_part(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Callable[..., Any]
) -> None:
    class Broken(brightness):  # type: ignore[misc]
        def detect(self, disagreement: torch.Tensor) -> Prediction:
            raise RuntimeError("no map")

    data = AnomalyDataModule(MVTec(parts), View(None), batch_size=4)
    with pytest.raises(RuntimeError, match="no map"):
        quiet_trainer(tmp_path / "run", Evaluation(), Report()).test(Broken(), datamodule=data, verbose=False)
    assert list((tmp_path / "run").iterdir()) == []


def batch_of(size: tuple[int, int], box: tuple[int, int, int, int], mask: np.ndarray) -> Batch:
    """A batch of a grey image of this size, at 64 x 64 for the network."""
    sample = Sample(Path("a.png"), 1, category="nut", defect="dent")
    pixels = torch.full((1, 3, 64, 64), 120, dtype=torch.uint8)
    return Batch(pixels, torch.tensor([3]), [sample], [size], [box], masks=[torch.from_numpy(mask)])


DECISION = Decision({"nut": np.array([1.0])}, {"nut": np.array([2.0])}, {"nut": np.array([0.0])}, false_alarm=0.5)


def test_pictures_lie_over_one_another() -> None:
    """The image is twice as wide as high, and padded to a square. Heat and truth lie at the right place on it."""
    mask = np.zeros((256, 512), bool)
    mask[128:192, 384:448] = True
    heat = np.zeros((64, 64), np.float32)
    heat[32:40, 48:56] = 4.0
    box = (16, 0, 48, 64)
    found = make_thumbnails(
        judge_image(Judgement(heat, 0.0, box), batch_of((256, 512), box, mask), 0, DECISION, View())
    )
    image, truth, hot = (decoded(found[kind]) for kind in ("image", "truth", "heat"))
    assert image.shape == hot.shape == (128, 256, 3) and truth.shape == (128, 256, 4)
    rows, columns = np.nonzero(truth[..., 3])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (64, 95, 192, 223)
    assert (truth[rows, columns, :3] == TRUTH[::-1]).all()
    bright = hot.astype(int).sum(axis=2) > 450
    assert bright[70:90, 198:218].all() and bright[100:].sum() == bright[:, :180].sum() == 0


def test_all_images_of_a_run_share_one_range_of_colours() -> None:
    """The hottest place of a nominal image is not shown as hot."""
    heat, box = np.zeros((64, 64), np.float32), (0, 0, 64, 64)
    heat[30, 30] = 0.5
    batch = batch_of((64, 64), box, np.zeros((64, 64), bool))
    with_decision = make_thumbnails(judge_image(Judgement(heat, 0.0, box), batch, 0, DECISION, View()))
    assert set(with_decision) == {"image", "heat"}  # an empty mask has no outline
    assert decoded(with_decision["heat"])[30, 30].max() < 80
    without_decision = make_thumbnails(judge_image(Judgement(heat, 0.0, box), batch, 0, None, View()))
    assert decoded(without_decision["heat"])[30, 30].max() > 120
    assert set(make_thumbnails(judge_image(Judgement(None, 0.0, box), batch, 0, DECISION, View()))) == {"image"}
