"""Directories of runs: a new one for each, and none that is used already."""

from pathlib import Path

import pytest

from lit_ad.errors import UserError
from lit_ad.training.run_directory import new_directory, refuse_used


def test_runs_of_one_second_have_directories_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lit_ad.training.run_directory.time.strftime", lambda _: "20260101-120000")
    made = [new_directory("stfpm") for _ in range(3)]
    assert [path.name for path in made] == ["20260101-120000", "20260101-120000-2", "20260101-120000-3"]
    assert all(path.is_dir() for path in made)


def test_a_used_directory_is_refused(tmp_path: Path) -> None:
    refuse_used(tmp_path)
    (tmp_path / "my run/checkpoints").mkdir(parents=True)
    refuse_used(tmp_path / "my run")
    (tmp_path / "my run/checkpoints/last.ckpt").touch()
    with pytest.raises(UserError, match=r"holds a run already .*--ckpt_path '.*my run/checkpoints/last.ckpt'"):
        refuse_used(tmp_path / "my run")
