"""`lit-ad speed` on a real run."""

import re
from pathlib import Path

import pytest

from lit_ad.commands.main import run
from lit_ad.errors import UserError


def test_speed(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["speed", str(checkpoint), "--batch", "[1,2]", "--seconds", "0.1"])
    out = capsys.readouterr().out
    head, _, *rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in out.splitlines() if line[0] == "|"]
    assert head[:4] == ["file", "runtime", "precision", "batch"]
    assert [row[:4] for row in rows] == [["best.ckpt", "PyTorch", "fp32", size] for size in "12"]
    assert all(float(value) > 0 for row in rows for value in row[4:])
    assert "Fastest here: PyTorch" in out
    run(["speed", str(checkpoint), "--seconds", "0.01"])
    assert re.findall(r"\| best.ckpt \| PyTorch +\| fp32 +\| +(\d+) ", capsys.readouterr().out) == ["1", "4"]
    with pytest.raises(UserError, match=r"there is no detector .*nowhere"):
        run(["speed", "nowhere.onnx"])
