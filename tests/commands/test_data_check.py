"""`lit-ad data check`: its page, its JSON and its exit code. tests/data/audit tests the faults that it finds."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from lit_ad.commands.data_check import data_check
from lit_ad.commands.main import run
from lit_ad.data import MVTec, Table
from lit_ad.data.splits import list_splits
from lit_ad.errors import UserError


def test_a_sound_data_set(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["data", "check", str(images)])
    said = capsys.readouterr().out
    assert f"{images}: MVTec AD's layout, one category" in said
    assert "10 to train on, 2 held out; test: 5 good, 4 square, each with a mask; 64x72, 8-bit RGB" in said
    assert said.endswith("no errors, no warnings\n") and "give --backbone" in said
    config = images.parent / "config.yaml"
    config.write_text(f"data:\n  source:\n    class_path: lit_ad.data.MVTec\n    init_args:\n      root: {images}\n")
    run(["data", "check", "--config", str(config), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["errors"] == found["warnings"] == [] and found["masks"] == 4
    assert [(one["split"], one["defect"], one["images"]) for one in found["counts"]] == [
        *(("test", "good", 5), ("test", "square", 4), ("train", "good", 12))
    ]


def test_errors_give_exit_code_1(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "part"
    shutil.copytree(images, root)
    (root / "train/good/005.png").write_bytes(b"no image")
    for words in ([], ["--json"]):
        with pytest.raises(SystemExit) as stop:
            run(["data", "check", str(root), *words])
        assert stop.value.code == 1
        assert "cannot read" in capsys.readouterr().out


def test_an_error_has_the_words_with_which_fit_refuses(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(images, tmp_path / "one")
    for path in sorted((tmp_path / "one/train/good").iterdir())[1:]:
        path.unlink()
    (tmp_path / "tests.csv").write_text(f"path,split,label\n{images}/test/good/000.png,test,good\n")
    table = ["--data.source", "Table", "--data.source.table", "tests.csv"]
    for source, words in (
        (MVTec(tmp_path / "one"), [str(tmp_path / "one")]),
        (Table(tmp_path, "tests.csv"), [*table, "--data.source.root", str(tmp_path)]),
    ):
        with pytest.raises(UserError) as refusal:
            list_splits(source)
        with pytest.raises(SystemExit):
            run(["data", "check", *words])
        assert f"  Error: {refusal.value}\n" in capsys.readouterr().out


def test_images_unlike_the_others(images: Path, resnet_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["data", "check", str(images), "--backbone", "resnet10t", "--weights", str(resnet_file)])
    assert "Not checked" not in capsys.readouterr().out


def test_exactly_one_data_set_is_given(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"give a data set to check: lit-ad data check PATH, or --config FILE"):
        run(["data", "check"])
    config = tmp_path / "config.yaml"
    source = ["--data.source", "MVTec", "--data.source.root", str(tmp_path)]
    for words, names in ((source, ("--config", "--data.source")), ([str(tmp_path)], ("the folder", "--config"))):
        one, other = names
        choice = f"to check that of {one}, leave out {other}; to check that of {other}, leave out {one}"
        with pytest.raises(
            UserError, match=f"^{one} and {other} each name a data set, but only one can be checked: {choice}$"
        ):
            run(["data", "check", "--config", str(config), *words])
    with pytest.raises(UserError, match=r"data.split.val_fraction is 5.0, but it must be 0 or lie between 0 and 1"):
        run(["data", "check", *source, "--data.split.val_fraction", "5"])
    with pytest.raises(UserError, match=rf"there is no folder {tmp_path}/none: data.source.root is the folder"):
        run(["data", "check", *source[:3], str(tmp_path / "none")])
    config.write_text("data: {source: {class_path: MVTek}}\n")
    with pytest.raises(UserError, match=r"data\.source of .*config\.yaml describes no source of images: .*MVTek"):
        run(["data", "check", "--config", str(config)])
    config.write_text("model: x\n")
    with pytest.raises(UserError, match=r"config\.yaml has no data\.source to check"):
        run(["data", "check", "--config", str(config)])


def test_any_source_with_the_flags_of_fit(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """README's second layout. The check holds out the images that fit would hold out."""
    shutil.copytree(images / "train/good", tmp_path / "good")
    shutil.copytree(images / "test/square", tmp_path / "dented")
    run(["data", "check", str(tmp_path)])
    assert "If some of dented, good are defects, give the source as to fit" in capsys.readouterr().out
    source = ["--data.source", "Folder", "--data.source.root", str(tmp_path), "--data.source.nominal", "good"]
    source += ["--data.source.anomalous", "[dented]", "--data.split.val_fraction", "0.5"]
    run(["data", "check", *source])
    assert "5 to train on, 5 held out; test: 2 good, 4 dented" in capsys.readouterr().out
    config = tmp_path / "config.yaml"
    settings = f"source: {{class_path: MVTec, init_args: {{root: {images}}}}}, split: {{val_fraction: 0.5}}"
    config.write_text(f"data: {{{settings}}}\n")
    for words, split in (
        ([], "6 to train on, 6 held out"),
        (["--data.split.val_fraction", "0.25"], "9 to train on, 3 held"),
    ):
        run(["data", "check", "--config", str(config), *words])  # the command line overrides the file
        assert split in capsys.readouterr().out


def test_copies_are_listed_and_can_be_removed(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "part"
    shutil.copytree(images, root)
    for copy in ("train/good/copy.png", "train/good/second.png", "test/good/copy.png"):
        shutil.copy(root / "train/good/000.png", root / copy)
    words = ["data", "check", str(root), "--json", "--remove", str(tmp_path / "copies.txt")]
    run(words)
    found = json.loads(capsys.readouterr().out)
    same = [str(root / name) for name in ("train/good/000.png", "train/good/copy.png", "train/good/second.png")]
    assert [sorted(group) for group in found["duplicates"]] == [sorted([*same, str(root / "test/good/copy.png")])]
    removed = (tmp_path / "copies.txt").read_text().splitlines()
    assert sorted(removed) == same  # all copies in training: the one in the test set stays
    for file in removed:
        Path(file).unlink()
    with pytest.raises(UserError, match=r"copies\.txt exists already: give another --remove"):
        run(words)
    run([*words[:4]])
    assert json.loads(capsys.readouterr().out)["duplicates"] == []


def test_a_key_of_a_config_that_fit_refuses_is_refused(images: Path, tmp_path: Path) -> None:
    source = {"class_path": "lit_ad.data.MVTec", "init_args": {"root": str(images)}}
    config = tmp_path / "earlier.yaml"
    config.write_text(yaml.safe_dump({"data": {"source": source, "val_fraction": 0.5}}))
    with pytest.raises(UserError, match=r"there is no key data\.val_fraction \(in .*earlier\.yaml\)"):
        data_check(config=config)
