"""`lit-ad benchmark`: its arguments, without running a cell. tests/benchmark runs cells."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_ad.commands.benchmark import STOP
from lit_ad.commands.main import run
from lit_ad.errors import UserError


@pytest.fixture
def words(images: Path, tmp_path: Path) -> Iterator[list[str]]:
    """A benchmark of one method and one task."""
    (tmp_path / "method.yaml").write_text("trainer: {max_steps: 9}\ndata: {batch_size: 2}\n")
    method = {"config": str(tmp_path / "method.yaml"), "arguments": ["--model.lr=2"]}
    source = {"class_path": "MVTec", "init_args": {"root": str(images)}}
    handlers = {number: signal.getsignal(number) for number in STOP}  # the command replaces them
    yield ["benchmark", "--methods", json.dumps({"m": method}), "--sources", json.dumps({"s": source})]
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_mistakes_in_arguments_are_refused(words: list[str], tmp_path: Path) -> None:
    words = [*words, "--output", str(tmp_path / "out")]
    with pytest.raises(UserError, match="--index is 2, but it must lie between 0 and 1, since --of is 2"):
        run([*words, "--index", "2", "--of", "2"])
    with pytest.raises(UserError, match="give --jobs of 1 or more"):
        run([*words, "--jobs", "0"])
    with pytest.raises(UserError, match="--of is 0, but it must be 1 or more"):
        run([*words, "--of", "0"])
    with pytest.raises(UserError, match="seeds has a number twice: 0, 1, 0"):
        run([*words, "--seeds", "[0, 1, 0]"])
    with pytest.raises(UserError, match="shots has a number twice: 2, 2"):
        run([*words, "--shots", "[2, 2]"])
    with pytest.raises(UserError, match="at least one of --seeds"):
        run([*words, "--seeds", "[]"])
    with pytest.raises(UserError, match="--only names no method or task cow"):
        run([*words, "--only", "[cow]"])
    with pytest.raises(UserError, match=r"sources\.s describes no source of images: .*MVTek"):
        run([*words, "--sources", '{"s": {"class_path": "MVTek"}}'])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--metrics", "[image_aurok]"], "there is no metric 'image_aurok': did you mean image_auroc"),
        (["--metrics", "[]"], "metrics is empty"),
        (["--minutes", "-1"], "budget.minutes is -1.0, but it must be above 0"),
        (["--budget.epochs", "0"], "budget.epochs is 0, but it must be above 0"),
        (["--methods", "{}"], "methods is empty"),
        (["--methods", "[STFPN]"], "there is no method STFPN"),
        (["--sources", "{}"], "sources is empty: give --root FOLDER"),
        (["--root", "."], "give --root FOLDER or sources, not both"),
        ([], "give --output FOLDER"),
    ],
)
def test_impossible_benchmarks_are_refused_before_training(more: list[str], message: str, words: list[str]) -> None:
    with pytest.raises(UserError, match=message):
        run([*words, *more])


def test_methods_by_name_on_a_folder(
    words: list[str], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command needs no file, and the file that it writes gives the same cells."""
    monkeypatch.chdir(tmp_path)
    none = ["--index", "2", "--of", "3"]  # a share without cells: nothing is trained
    run(["benchmark", "--root", str(images), "--methods", "[STFPM, method.yaml]", "--minutes", "0.5", *none])
    out = tmp_path / "runs/benchmark" / images.name
    printed = capsys.readouterr().out
    assert (
        f"This does the same as lit-ad benchmark --config {out}/benchmark.yaml:" in printed
        and "minutes: 0.5" in printed
    )
    before = {file: file.read_bytes() for file in out.rglob("asked.json")}
    assert {file.relative_to(out).parts[0] for file in before} == {"STFPM", "method"}
    stfpm = json.loads((out / "STFPM" / images.name / "seed-0/asked.json").read_text())["config"]
    assert stfpm["model"]["class_path"] == "lit_ad.methods.STFPM"
    assert stfpm["trainer"]["max_time"] == {"seconds": 30} and stfpm["data"]["source"]["init_args"]["root"]
    run(["benchmark", "--config", str(out / "benchmark.yaml"), *none])
    assert {file: file.read_bytes() for file in out.rglob("asked.json")} == before


def test_every_fit_is_given_all_arguments(words: list[str], images: Path, tmp_path: Path) -> None:
    """The arguments of all methods, of the one method, and after `--`. A share without cells runs nothing."""
    empty = ["--index", "1", "--of", "2", "--arguments", "[--model.lr=1]"]
    run([*words, "--output", str(tmp_path / "out"), "--budget.epochs", "3", *empty, "--", "--model.lr", "3"])
    (asked,) = (tmp_path / "out/m").rglob("asked.json")
    given = json.loads(asked.read_text())
    assert given["arguments"] == ["--model.lr=1", "--model.lr=2", "--model.lr", "3"]
    assert given["config"]["data"]["source"]["init_args"]["root"] == str(images)
    assert given["config"]["trainer"] == {"max_epochs": 3, "max_steps": -1, "enable_progress_bar": False}
    assert not list((tmp_path / "out").rglob("log.txt"))
