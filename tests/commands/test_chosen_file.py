"""The detector that a command was given."""

from pathlib import Path

import pytest

from lit_ad.commands.chosen_file import chosen_file
from lit_ad.errors import UserError


def test_a_line_says_which_checkpoint_of_a_run_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = tmp_path / "checkpoints/best.ckpt"
    best.parent.mkdir()
    best.touch()
    assert chosen_file("export", tmp_path, None) == best
    assert capsys.readouterr().out == f"Taken from {tmp_path}: checkpoints/best.ckpt\n"
    assert chosen_file("export", best, None) == chosen_file("export", None, best) == best
    assert capsys.readouterr().out == ""


def test_one_detector_is_given_once(tmp_path: Path) -> None:
    for given in ((None, None), (tmp_path, tmp_path)):
        with pytest.raises(UserError, match="give one detector: lit-ad export RUN"):
            chosen_file("export", *given)
