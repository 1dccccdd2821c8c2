"""Users can type nulls of the view, and a typed class does not inherit the arguments of a config file's class."""

import json
import sys
from pathlib import Path

import pytest
import yaml
from jsonargparse import get_loader

from lit_ad.commands.main import main
from lit_ad.lightning_cli.jsonargparse_workarounds import allow_file_names, find_class_in_files, find_typed_class

ROOT = Path(__file__).parents[2]


def lit_ad(*arguments: object, cwd: Path) -> str:
    """Run a command that fails, and return its message."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lit-ad", *map(str, arguments)])
        patch.chdir(cwd)
        with pytest.raises(SystemExit) as stopped:
            main()
    return str(stopped.value.code)


STFPM = ("fit", "--config", ROOT / "configs/stfpm.yaml")
REFUSED = (
    f"lit-ad: --data.source Folder replaces MVTec of {ROOT / 'configs/stfpm.yaml'}, but would keep its root "
    "data/mvtec/bottle: give --data.source.root"
)


@pytest.mark.parametrize(
    "source",
    [
        ["--data.source", "Folder"],
        ["--data.source=lit_ad.data.Folder"],
        ["--data.source.class_path", "lit_ad.data.Folder"],
        ["--data.source", json.dumps({"class_path": "lit_ad.data.Folder", "init_args": {"nominal": "good"}})],
    ],
)
def test_a_typed_source_does_not_inherit_the_root(tmp_path: Path, source: list[str]) -> None:
    assert lit_ad(*STFPM, *source, "--data.source.nominal", "good", cwd=tmp_path) == REFUSED


@pytest.mark.parametrize("source", [["--data.source", "Folder", "--data.source.root"], ["--data.source.root"]])
def test_a_typed_root_is_used(images: Path, resnet_file: Path, tmp_path: Path, source: list[str]) -> None:
    """The message is about the missing folder."""
    model = ("--model.backbone", "resnet10t", "--model.weights", resnet_file)
    nominal = ["--data.source.nominal", "train/good"] if "Folder" in source else []
    said = lit_ad(*STFPM, *model, *source, tmp_path / "gone", *nominal, cwd=tmp_path)
    assert str(tmp_path / "gone") in said and "would keep" not in said


def test_a_typed_method_does_not_inherit_settings(tmp_path: Path) -> None:
    said = lit_ad(*STFPM, "--model", "L2BT", "--model.backbone", "deit_tiny_patch16_224", cwd=tmp_path)
    assert said.startswith(f"lit-ad: --model L2BT replaces STFPM of {ROOT / 'configs/stfpm.yaml'}, but would keep its ")
    kept = said.partition(": give ")[2].split(", ")
    assert {"--model.weights", "--model.taps", "--model.lr", "--model.view"} == set(kept)


def test_the_typed_class_and_its_arguments_are_found() -> None:
    typed = [
        "fit",
        "--data.source",
        "Folder",
        "--data.source.root=x",
        "--data.source.init_args.masks+=m",
        "--model.lr",
        "1",
    ]
    assert find_typed_class(typed, "data.source") == ("Folder", {"root", "masks"})
    assert find_typed_class(typed, "model") == (None, {"lr"})
    assert find_typed_class(['--model={"class_path": "a.B", "init_args": {"c": 1}}'], "model") == ("a.B", {"c"})


def test_the_last_file_counts(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.yaml" for name in "abc"]
    for file, said in zip(
        files, ({"model": {"class_path": "A"}}, {"model": {"class_path": "B"}}, {"seed": 1}), strict=True
    ):
        file.write_text(yaml.safe_dump(said))
    assert find_class_in_files(files, "model") == (files[1], {"class_path": "B"})
    assert find_class_in_files(files, "data.source") == (None, {})


@pytest.mark.parametrize(
    "typed",
    [
        ["--model.view.image_size", "null", "--model.view.tile", "64"],
        ["--model.view.image_size=null", "--model.view.tile=64"],
        ["--model.init_args.view.image_size", "null", "--model.view.tile=64"],
        ["--model.view.tile=64", "--model.view.crop", "null", "--model.view.image_size", "null"],
        ["--model.view", "{image_size: null, tile: 64}"],
    ],
)
def test_a_null_of_the_view_can_be_typed(
    typed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Keys that are not typed keep the file's values."""
    words = ["lit-ad", "fit", "--config", str(ROOT / "configs/l2bt.yaml"), *typed, "--print_config"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    view = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["view"]
    assert (view["image_size"], view["tile"], view["crop"]) == (None, 64, None)
    assert (view["fit"], view["interpolation"]) == ("pad", "bicubic")


@pytest.mark.parametrize("name", ["r\udcfcn", "\udc80\udcff", "plain", "\u00fc", r"\udcfc", r"\\udcfc"])
def test_texts_with_file_names_that_are_not_utf8(name: str) -> None:
    """Typed alone, in a mapping, and in a file, in each of the ways that YAML writes them."""
    allow_file_names()
    allow_file_names()  # each parser calls it
    load = get_loader("yaml")
    assert load(f"'{name}'") == load(json.dumps(name)) == name
    assert load(f"{{a: ['{name}', 1], '{name}': null}}") == {"a": [name, 1], name: None}
    assert load(yaml.safe_dump({name: [name]})) == {name: [name]}
