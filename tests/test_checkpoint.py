"""Checkpoint files are found and read. test_faults.py has the damaged ones."""

from pathlib import Path

import pytest
import torch

from lit_ad.checkpoint import read_checkpoint, write_checkpoint
from lit_ad.errors import UserError


def test_paths_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_checkpoint({"state_dict": {"weight": torch.ones(2)}}, tmp_path / "x.ckpt")
    for path in ("~/x.ckpt", "a/../x.ckpt", Path("~/x.ckpt"), "x.ckpt"):
        assert torch.equal(read_checkpoint(path)["state_dict"]["weight"], torch.ones(2))
    with pytest.raises(UserError, match=f"there is no checkpoint {tmp_path}/y.ckpt"):
        read_checkpoint("~/y.ckpt")
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "x.ckpt").rename(tmp_path / "run/checkpoints/last.ckpt")
    with pytest.raises(UserError, match=f"run is a run directory, .*: give {tmp_path}/run/checkpoints/last.ckpt$"):
        read_checkpoint("~/run")


@pytest.mark.parametrize("content", [[1], {}, {"state_dict": [1]}])
def test_files_without_a_state_dict_are_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=f"^{tmp_path}/x.ckpt is no checkpoint of lit_ad: it holds no state_dict$"):
        read_checkpoint(tmp_path / "x.ckpt")
