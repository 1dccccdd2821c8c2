"""Configurations are found by name, and paths stay paths."""

import sys
from pathlib import Path

import pytest

from lit_ad.commands.main import run
from lit_ad.errors import UserError
from lit_ad.shipped_configs import CONFIGS, find_config, list_config_names, replace_names

ROOT = Path(__file__).parents[1]


def test_the_names_are_the_files_of_the_folder() -> None:
    assert CONFIGS == ROOT / "configs"
    assert {"stfpm", "demo", "benchmark/mvtec"} <= set(list_config_names())
    assert all(find_config(name).is_file() for name in list_config_names())


def test_a_file_wins_over_a_name_and_a_folder_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stfpm").mkdir()
    assert find_config("stfpm") == ROOT / "configs/stfpm.yaml"
    (tmp_path / "stfpm").rmdir()
    (tmp_path / "stfpm").touch()
    assert find_config("stfpm") == tmp_path / "stfpm"
    assert find_config("mine.yaml") == tmp_path / "mine.yaml"  # which the parser says is not there


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("stfpn", "no config file stfpn, and none comes with lit_ad under this name: did you mean stfpm?"),
        ("zzzzzz", "under this name: there are benchmark/"),
        ("configs/stfpm.yaml", "own one is stfpm, without a path"),
    ],
)
def test_missing_files_and_names_are_refused_with_a_hint(
    given: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        find_config(given)


def test_names_on_a_command_line_become_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stfpm, demo = (str(ROOT / f"configs/{name}.yaml") for name in ("stfpm", "demo"))
    words = ["--config", "stfpm", "-c=demo", "--config=demo", "--model", "stfpm", "--config"]
    assert replace_names(words) == [
        *("--config", stfpm, f"-c={demo}", f"--config={demo}"),
        *("--model", "stfpm", "--config"),
    ]
    assert replace_names(["--config", "--model", "x"]) == ["--config", "--model", "x"]


def test_a_command_takes_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lit-ad", "fit", "--config", "demo", "--print_config"])
    with pytest.raises(SystemExit):
        run(sys.argv[1:])
    assert "max_epochs: 16" in capsys.readouterr().out
