"""`lit-ad speed`, of a real run."""

from pathlib import Path

import pytest

from lit_ad.commands.main import run
from lit_ad.errors import UserError


def test_speed(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["speed", str(checkpoint), "--batch", "[1,2]", "--seconds", "0.1"])
    out = capsys.readouterr().out
    rows = [line.split(" | ") for line in out.splitlines() if line.startswith("| best.ckpt")]
    assert [row[1:4] for row in rows] == [["PyTorch", "fp32", "1"], ["PyTorch", "fp32", "2"]]
    assert all(float(value.strip(" |")) > 0 for row in rows for value in row[4:])
    assert "Fastest here: PyTorch" in out
    with pytest.raises(UserError, match="there is no detector nowhere"):
        run(["speed", "nowhere.onnx"])
