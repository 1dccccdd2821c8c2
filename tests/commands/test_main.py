"""The command table, and what is printed when something is wrong: one line that a user can act on."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lit_ad import __version__
from lit_ad.commands import main as program
from lit_ad.errors import UserError
from lit_ad.files import free_directory
from lit_ad.lightning_cli.cli import check_config_files
from lit_ad.lightning_cli.help import in_one_line
from lit_ad.training.run_directory import new_directory, refuse_used


def said(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["lit-ad", *arguments])
    with pytest.raises(SystemExit) as stop:
        program.main()
    return str(stop.value)


def test_an_unknown_command_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(monkeypatch, "fti") == "lit-ad: no command 'fti': did you mean fit?"
    assert "there are fit, " in said(monkeypatch, "xyzzy")


def test_commands_of_two_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(monkeypatch, "data", "gt") == "lit-ad: no command 'data gt': did you mean data get?"
    assert said(monkeypatch, "data", "xyzzy") == "lit-ad: no command 'data xyzzy': there are data check, data get"
    for words in (["data"], ["data", "--help"]):
        program.run(words)
        lines = [line.split("  ") for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
        assert [line[1] for line in lines] == ["data check", "data get"]


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["lit-ad", "--version"])
    program.main()
    assert capsys.readouterr().out == f"lit-ad {__version__}\n"


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


def test_an_error_of_a_loaders_worker_is_its_message() -> None:
    """torch hands it over as the text of a traceback."""

    class Broken(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> int:
            raise UserError(f"cannot read {index}.png")

    with pytest.raises(UserError) as error:
        list(torch.utils.data.DataLoader(Broken(), num_workers=1))
    assert str(error.value) == "cannot read 0.png"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1\n", r"bad.yaml is no YAML: while parsing .* line 1"),
        ("", r"bad.yaml is empty, or holds no keys"),
        ("- 1\n", r"bad.yaml is empty, or holds no keys"),
        (None, r"cannot read the config file .*bad.yaml"),
    ],
)
def test_config_files_are_named(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "bad.yaml"
    if content is not None:
        file.write_text(content)
    for arguments in (["fit", "--config", str(file)], ["fit", f"--config={file}"]):
        with pytest.raises(UserError, match=message):
            check_config_files(arguments)


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


def test_runs_of_one_second_have_directories_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lit_ad.training.run_directory.time.strftime", lambda _: "20260101-120000")
    made = [new_directory("stfpm") for _ in range(3)]
    assert [path.name for path in made] == ["20260101-120000", "20260101-120000-2", "20260101-120000-3"]
    assert all(path.is_dir() for path in made)


def test_a_used_directory_is_refused(tmp_path: Path) -> None:
    refuse_used(tmp_path)
    (tmp_path / "my run/checkpoints").mkdir(parents=True)
    refuse_used(tmp_path / "my run")
    (tmp_path / "my run/checkpoints/last.ckpt").touch()
    with pytest.raises(UserError, match=r"holds a run already .*--ckpt_path '.*my run/checkpoints/last.ckpt'"):
        refuse_used(tmp_path / "my run")


def test_the_next_free_directory(tmp_path: Path) -> None:
    wanted = tmp_path / "predictions"
    assert free_directory(wanted, "scores.csv") == wanted
    wanted.mkdir()
    (wanted / "scores.csv").touch()
    assert free_directory(wanted, "scores.csv") == tmp_path / "predictions-2"


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
