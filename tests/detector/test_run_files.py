"""The file of a detector is found in a run directory."""

from pathlib import Path

import pytest

from lit_ad.detector.run_files import find_detector, find_run
from lit_ad.errors import UserError


def test_the_best_checkpoint_of_a_run_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="is no run directory: it has neither"):
        find_detector(tmp_path)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("last.ckpt", "best.ckpt"):
        (folder / name).touch()
        assert find_detector(tmp_path) == folder / name
    monkeypatch.chdir(tmp_path)
    assert find_detector("checkpoints/last.ckpt") == folder / "last.ckpt"
    assert find_run(folder / "best.ckpt") == tmp_path


def test_a_path_that_is_no_detector_is_refused(tmp_path: Path) -> None:
    alone = tmp_path / "alone.onnx"
    with pytest.raises(UserError, match=r"there is no detector .*alone\.onnx: give a run's directory"):
        find_detector(alone)
    alone.touch()
    with pytest.raises(UserError, match=r"last\.ckpt; give a file: .*/alone\.onnx$"):
        find_detector(tmp_path)
    assert find_detector(alone) == alone and find_run(alone) is None
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"notes\.txt is no detector: expected a checkpoint \(\.ckpt\) or \.onnx"):
        find_detector(tmp_path / "notes.txt")
