"""A sink gets the stage, each image and the end. It overrides only the methods that it needs."""

import threading
from pathlib import Path
from typing import Any

import pytest

from lit_ad.batch import Sample
from lit_ad.data import AnomalyDataModule, MVTec
from lit_ad.evaluation import Evaluation
from lit_ad.evaluation.judged import Judged
from lit_ad.evaluation.results import Results
from lit_ad.evaluation.sinks.sink import Sink, Stage
from lit_ad.image.view import View


class Noting(Sink):
    """Records the calls of its methods, in order."""

    def __init__(self, break_at: int | None = None) -> None:
        self.told: list[str] = []
        self.images: list[Judged] = []
        self.break_at, self.lock = break_at, threading.Lock()

    def begin(self, stage: Stage) -> None:
        self.stage = stage
        self.told.append("begin")

    def image(self, judged: Judged) -> None:
        with self.lock:
            self.images.append(judged)
            if len(self.images) == self.break_at:
                raise OSError("no space left")

    def finish(self, results: Results | None) -> None:
        self.told.append("finish")
        self.results = results

    def give_up(self) -> None:
        self.told.append("give up")


def test_a_sink_gets_every_image_of_a_test(parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any) -> None:
    sink, silent = Noting(), Sink()  # the base class does nothing, and may be among the others
    data = AnomalyDataModule(MVTec(parts), View(None), batch_size=4)
    quiet_trainer(tmp_path / "run", Evaluation(sinks=[silent, sink])).test(brightness(), data, verbose=False)
    assert sink.told == ["begin", "finish"]
    assert sorted(judged.index for judged in sink.images) == list(range(18))
    assert sink.results is not None and len(sink.results.images) == 18
    stage = sink.stage
    assert (stage.first, stage.predicting, stage.method, stage.directory) == (
        *(True, False, "Brightness"),
        tmp_path / "run",
    )
    assert list(stage.samples) == data.splits.test
    pictures = {stage.picture(sample.image) for sample in data.splits.test}
    assert len(pictures) == 18  # one for each
    assert all(path.is_relative_to(tmp_path / "run/heatmaps") and path.suffix == ".jpg" for path in pictures)


def test_a_failing_sink_ends_the_test_and_all_sinks_give_up(
    parts: Path, tmp_path: Path, brightness: Any, quiet_trainer: Any
) -> None:
    failing, other = Noting(break_at=3), Noting()
    data = AnomalyDataModule(MVTec(parts), View(None), batch_size=4)
    with pytest.raises(OSError, match="no space left"):
        quiet_trainer(tmp_path, Evaluation(sinks=[failing, other])).test(brightness(), data, verbose=False)
    assert failing.told == other.told == ["begin", "give up"]
    assert not (tmp_path / "metrics.json").exists()


def test_only_the_first_process_writes_the_files_of_all() -> None:
    stage = Stage(Path("run"), [Sample(Path("a/good/1.png"), 0), Sample(Path("b/good/1.png"), 0)], None, "M", rank=1)
    assert not stage.first
    assert stage.picture("a/good/1.png") != stage.picture("b/good/1.png")
