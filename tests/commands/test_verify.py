"""`lit-ad verify`: a table of the images that a file carries, by the checkpoint and here."""

import sys
from pathlib import Path

import pytest

from lit_ad.commands.main import main, run
from lit_ad.detector.exported import load_exported
from lit_ad.detector.self_check import SelfCheck
from lit_ad.errors import UserError

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def test_a_row_for_each_image_alone_and_together(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(["export", str(trained), "--output", str(tmp_path)])
    capsys.readouterr()
    file = tmp_path / "stfpm-fp32.onnx"
    run(["verify", str(file)])
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("|")][2:]
    assert [row[:2] for row in rows] == [[str(image), batch] for batch in "13" for image in (1, 2, 3)]
    check = SelfCheck.from_text(load_exported(file).check or "", file)
    assert [float(row[2]) for row in rows] == pytest.approx([*check.scores] * 2, rel=1e-5)
    assert all(float(row[3]) == pytest.approx(float(row[2]), rel=1e-4) for row in rows)
    assert "Tolerance 2e-03; more than 1e-02 is refused\nThe file computes what the checkpoint did\n" in out
    assert "ONNX Runtime" in out and "CPUExecutionProvider" in out
    monkeypatch.setattr("lit_ad.detector.self_check.REFUSED", 0.0)
    monkeypatch.setattr(sys, "argv", ["lit-ad", "verify", str(file)])
    with pytest.raises(SystemExit, match=r"^lit-ad: ONNX Runtime .* computes other numbers for "):
        main()


def test_files_without_images_to_compare_are_refused(trained: Path, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"best\.ckpt is a checkpoint, so there is nothing to compare it with"):
        run(["verify", str(trained)])
    run(["export", str(checkpoint), "--output", str(tmp_path), "--self_check", "false"])
    with pytest.raises(UserError, match=r"carries no images to compare on: export it again, without --self_check"):
        run(["verify", str(tmp_path / "stfpm-fp32.onnx")])
