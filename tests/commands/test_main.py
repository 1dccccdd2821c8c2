"""The command table, and what is printed when something is wrong: one line that a user can act on."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from lit_ad import __version__
from lit_ad.commands import main as program
from lit_ad.errors import UserError


def said(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["lit-ad", *arguments])
    with pytest.raises(SystemExit) as stop:
        program.main()
    return str(stop.value)


def test_an_unknown_command_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(monkeypatch, "fti") == "lit-ad: no command 'fti': did you mean fit?"
    assert "the commands are fit, " in said(monkeypatch, "xyzzy")


def test_commands_of_two_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(monkeypatch, "data", "gt") == "lit-ad: no command 'data gt': did you mean data get?"
    assert (
        said(monkeypatch, "data", "xyzzy")
        == "lit-ad: no command 'data xyzzy': the commands are data check, data get, data shift"
    )
    for words in (["data"], ["data", "--help"]):
        program.run(words)
        lines = [line.split("  ") for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
        assert [line[1] for line in lines] == ["data check", "data get", "data shift"]


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["lit-ad", "--version"])
    program.main()
    assert capsys.readouterr().out == f"lit-ad {__version__}\n"


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for words in ([], ["--help"], ["help"]):
        monkeypatch.setattr(sys, "argv", ["lit-ad", *words])
        program.main()
        lines = capsys.readouterr().out.splitlines()
        for name, command in program.COMMANDS.items():
            assert any(
                line.split("  ", 2)[1].startswith(name) and line.endswith(command.about)
                for line in lines
                if line.startswith("  ")
            ), name


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is not the user's, of our own code or of torch's, is never shortened to a line."""

    def shapes(arguments: list[str]) -> None:
        torch.zeros(2, 3) @ torch.zeros(2, 3)

    monkeypatch.setattr(program, "import_function", lambda name: shapes)
    monkeypatch.setattr(sys, "argv", ["lit-ad", "fit"])
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        program.main()


def test_a_users_error_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(arguments: list[str]) -> None:
        raise UserError("this file is missing")

    monkeypatch.setattr(program, "import_function", lambda name: wrong)
    assert said(monkeypatch, "fit") == "lit-ad: this file is missing"


def test_a_method_of_ones_own_lies_in_the_current_directory(tmp_path: Path, images: Path, resnet_file: Path) -> None:
    """Without PYTHONPATH, by the console script's way in; the two examples of docs/contributing.md."""
    page = (Path(__file__).parents[2] / "docs/contributing.md").read_text()
    method, source = (part.split("```")[0] for part in page.split("```python\n# my_")[1:3])
    (tmp_path / "my_method.py").write_text("# my_" + method)
    (tmp_path / "my_source.py").write_text("# my_" + source)
    code = "import sys; sys.path.remove(''); from lit_ad.commands.main import main; main()"
    arguments = ["fit", "--model", "my_method.Reconstruction", "--data.source", "my_source.Flat"]
    arguments += ["--model.backbone", "resnet10t", "--model.weights", str(resnet_file)]
    arguments += ["--data.source.root", str(images), "--data.batch_size", "4", "--trainer.max_epochs", "1"]
    arguments += ["--trainer.default_root_dir", "run", "--trainer.accelerator", "cpu", "--model.view.image_size", "32"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run/metrics.json").is_file()
    assert "lightning_logs" not in {path.name for path in (tmp_path / "run").iterdir()}
    assert "💡" not in done.stdout + done.stderr


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


@pytest.mark.parametrize("locale", [{}, ASCII])
def test_a_data_set_of_any_name_in_any_locale(images: Path, tmp_path: Path, locale: dict[str, str]) -> None:
    """A name that is no UTF-8, another alphabet, and a configuration in it, where text files are ASCII by default."""
    root = shutil.copytree(images, tmp_path / "pr\u00fcfteile")
    (root / "ground_truth/square/000_mask.png").rename(root / "ground_truth/square/teil_\udcfc.png")
    (root / "test/square/000.png").unlink()
    (root / "test/square/teil_\udcfc.png").write_bytes(b"no image")
    config = {"data": {"source": {"class_path": "MVTec", "init_args": {"root": str(root)}}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "lit_ad", "data", "check", "--config", "config.yaml"],
        cwd=tmp_path,
        env={**os.environ, **locale},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1 and b"Traceback" not in done.stderr
    named = rb"pr\xfcfteile" if locale else "pr\u00fcfteile".encode()
    assert named in done.stdout and rb"teil_\xfc.png" in done.stdout
