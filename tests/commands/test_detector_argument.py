"""The argument that names a detector: a run or a file, given once."""

from pathlib import Path

import pytest

from lit_ad.commands.detector_argument import require_detector
from lit_ad.errors import UserError


def test_a_line_says_which_checkpoint_of_a_run_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = tmp_path / "checkpoints/best.ckpt"
    best.parent.mkdir()
    best.touch()
    assert require_detector("export", tmp_path, None) == best
    assert capsys.readouterr().out == f"Taken from {tmp_path}: checkpoints/best.ckpt\n"
    assert require_detector("export", best, None) == require_detector("export", None, best) == best
    assert capsys.readouterr().out == ""


def test_one_detector_is_given_once(tmp_path: Path) -> None:
    for given in ((None, None), (tmp_path, tmp_path)):
        with pytest.raises(UserError, match="give one detector: lit-ad export RUN"):
            require_detector("export", *given)
