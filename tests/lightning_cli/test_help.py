"""The help of LightningCLI's commands, and what the parser says of mistakes."""

import sys

import pytest

from lit_ad.commands.main import main
from lit_ad.lightning_cli.help import in_one_line

RUN = ["options", "trainer, of Lightning", "model", "data"]
OUTPUT = ["checkpoint, of Lightning"]
JUDGED = ["cache, of features", "decision", "evaluation", "heatmaps", "predictions", "dashboard"]


def lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str) -> list[str]:
    """The help of a command."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "argv", ["lit-ad", command, "--help"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("command", "headings"),
    [*((name, [*RUN, *JUDGED, *OUTPUT]) for name in ("fit", "predict")), ("distill", [*RUN, *OUTPUT])],
)
def test_groups_of_keys_are_called_by_the_key(
    command: str, headings: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage, *rest = lines(monkeypatch, capsys, command)
    assert usage == f"usage: lit-ad {command} --config FILE [--KEY VALUE ...]"
    assert [line.removesuffix(":") for line in rest if line.endswith(":") and line[0] != " "] == headings
    assert all(line.startswith(("  ", "--print_config ")) for line in rest if line and line[:-1] not in headings)


def test_help_is_a_line_a_key(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown = lines(monkeypatch, capsys, "fit")
    assert len(shown) < 200
    assert max(map(len, shown)) <= 120
    assert any(line.startswith("  --data.val_fraction ") and "[0.2] Part of the nominal" in line for line in shown)
    assert any(line.startswith("  --ckpt_path ") for line in shown)
    assert all(any(method in line for line in shown) for method in ("STFPM", "MKD", "Transformaly", "L2BT"))


def test_the_parsers_words_in_one_line() -> None:
    message = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'lit_ad.methods.base.Method'>, <class 'NoneType'>]
  Errors:
    - Expected a dot import path string: STFMP
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: STFMP"""
    shown = in_one_line(message, [])
    assert shown == 'Parser key "model": Expected a dot import path string: STFMP. Did you mean STFPM?'
    assert in_one_line("unrecognized arguments: --data.sorce x", ["data.source"]).endswith("Did you mean data.source?")
    assert in_one_line("Expected a path but Foldr is none", []).endswith("Did you mean Folder?")
    assert in_one_line("nothing like it", ["data.source"]) == "nothing like it"
