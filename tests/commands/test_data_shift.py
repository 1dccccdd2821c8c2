"""`lit-ad data shift`: which data sets it shifts, and which line it prints for the next command."""

from pathlib import Path

import pytest

from lit_ad.commands.main import run
from lit_ad.data import MVTec
from lit_ad.errors import UserError


def test_a_data_set_is_shifted_for_test(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run(["data", "shift", str(images), "--kind", "light", "--strength", "0.25"])
    copy = tmp_path / f"{images.name}-light-0.25"
    assert capsys.readouterr().out == (
        f"9 images in {copy}, light shifted by up to 0.25, seed 0\n"
        f"Next: lit-ad test RUN --data.source MVTec --data.source.root {copy}\n"
    )
    assert MVTec(copy).shift() == {"kind": "light", "strength": 0.25, "seed": 0}
    assert len(MVTec(copy).samples()) == len(MVTec(images).samples())
    source = ["--data.source", "Folder", "--data.source.root", str(images), "--data.source.nominal", "test/good"]
    run(["data", "shift", *source, "--data.source.anomalous", "test/square", "--output", "other", "--kind", "shadow"])
    assert MVTec(tmp_path / "other").shift() == {"kind": "shadow", "strength": 0.3, "seed": 0}
    assert [sample.defect for sample in MVTec(tmp_path / "other").samples() if sample.label] == ["square"] * 4


def test_a_folder_of_images_is_shifted_for_predict(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["data", "shift", str(images / "test"), "--output", str(tmp_path / "copy"), "--seed", "2"])
    assert "Next: lit-ad predict RUN" in capsys.readouterr().out
    assert len(list((tmp_path / "copy/good").iterdir())) == 5 and len(list((tmp_path / "copy/square").iterdir())) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"give one data set to shift: lit-ad data shift PATH"),
        (["IMAGES/nowhere"], "nowhere is not a folder"),
        (["IMAGES", "--strength", "2"], r"data shift: strength is 2.0, but it must lie above 0, and not above 1"),
        (["IMAGES", "--kind", "dusk"], "kind"),
        (["IMAGES", "--output", "IMAGES/test/dark"], r"test/dark lies in the data set .*: give another --output"),
    ],
)
def test_what_cannot_be_shifted_is_refused(images: Path, tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(["data", "shift", *(word.replace("IMAGES", str(images)) for word in words)])
