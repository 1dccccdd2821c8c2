"""`lit-ad report` needs the directories of runs only."""

from pathlib import Path
from typing import Any

import pytest

from lit_ad.commands import main as program
from lit_ad.data import AnomalyDataModule, MVTec
from lit_ad.errors import UserError
from lit_ad.evaluation import Evaluation, Report
from lit_ad.image.view import View
from lit_ad.methods import STFPM


@pytest.fixture(scope="module")
def run(images: Path, small_models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    import lightning as L

    home = tmp_path_factory.mktemp("runs") / "run"
    model = STFPM(**{**small_models["STFPM"]["init_args"], "view": View(64)})
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(default_root_dir=home, callbacks=[Evaluation(sinks=[Report()])], accelerator="cpu", **quiet)
    trainer.test(model, datamodule=AnomalyDataModule(MVTec(images), model.view), verbose=False)
    return home


def test_the_page_of_a_run_can_be_written_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = (run / "report.html").read_text()
    (run / "report.html").unlink()
    program.run(["report", str(run)])
    assert (run / "report.html").read_text() == written
    assert f"Open {run / 'report.html'} in a browser" in capsys.readouterr().out


def test_two_runs_on_one_page(run: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").symlink_to(run)
    program.run(["report", str(run), str(tmp_path / "copy"), "--output", str(tmp_path / "both.html")])
    assert "Where the runs disagree" in (tmp_path / "both.html").read_text()


def test_a_directory_without_a_test_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere has no metrics.json"):
        program.run(["report", str(run), str(tmp_path / "nowhere"), "--output", str(tmp_path / "both.html")])
