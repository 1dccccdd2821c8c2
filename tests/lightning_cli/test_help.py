"""The help of LightningCLI's commands: a group for each key, and a line for each of its keys."""

import sys

import pytest

from lit_ad.commands.main import main

RUN = ["options", "trainer, of Lightning", "model", "data", "data.loading", "data.split"]
OUTPUT = ["checkpoint, of Lightning"]
JUDGED = ["cache, of features", "decision", "evaluation", "heatmaps", "predictions", "dashboard"]


def lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str) -> list[str]:
    """Return the lines of a command's help."""
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
def test_the_title_of_a_group_is_its_key(
    command: str, headings: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage, *rest = lines(monkeypatch, capsys, command)
    assert usage == f"usage: lit-ad {command} --config FILE [--KEY VALUE ...]"
    assert [line.removesuffix(":") for line in rest if line.endswith(":") and line[0] != " "] == headings
    assert all(line.startswith(("  ", "--print_config ")) for line in rest if line and line[:-1] not in headings)


def test_help_has_one_line_for_each_key(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown = lines(monkeypatch, capsys, "fit")
    assert len(shown) < 200
    assert max(map(len, shown)) <= 120
    assert any(
        line.startswith("  --data.split.val_fraction ") and "[0.2] Fraction of the nominal" in line for line in shown
    )
    assert any(line.startswith("  --ckpt_path ") for line in shown)
    assert all(any(method in line for line in shown) for method in ("STFPM", "MKD", "Transformaly", "L2BT"))
