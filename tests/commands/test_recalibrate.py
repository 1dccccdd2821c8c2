"""`lit-ad recalibrate`, of a real run and of its exported file."""

from pathlib import Path

import pytest

from lit_ad import Detector
from lit_ad.commands.main import run
from lit_ad.errors import UserError

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def test_recalibrate(checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["export", "--ckpt_path", str(checkpoint), "--output", str(tmp_path)])
    for file in (checkpoint, tmp_path / "stfpm-fp32.onnx"):
        before = file.read_bytes()
        new = tmp_path / f"new{file.suffix}"
        given = ["--ckpt_path", str(file), "--nominal", str(images / "test/good"), "--false_alarm", "0.2"]
        run(["recalibrate", *given, "--output", str(new)])
        assert file.read_bytes() == before
        found, good = Detector.load(new), sorted((images / "test/good").iterdir())
        decision = found.card.decision
        assert decision is not None and decision.false_alarm == 0.2
        assert list(decision.scores["stripes"]) == pytest.approx(sorted(one.score for one in found(good)), rel=1e-5)
        assert len(decision.maxima["stripes"]) == 5
        assert found(good[0]).score == pytest.approx(Detector.load(file)(good[0]).score)
        with pytest.raises(UserError, match="is the file itself"):
            run(["recalibrate", *given, "--output", str(file)])
    run(["recalibrate", *given, "--false_alarm", "0.005"])
    assert "Warning: 5 held-out nominal images allow a false-alarm rate of 0.167" in capsys.readouterr().out
