"""`lit-ad benchmark`: its arguments, before any cell is run; tests/benchmark runs cells."""

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
    handlers = {number: signal.getsignal(number) for number in STOP}  # which the command takes for its process
    yield ["benchmark", "--methods", json.dumps({"m": method}), "--sources", json.dumps({"s": source})]
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_mistakes(words: list[str], tmp_path: Path) -> None:
    words = [*words, "--output", str(tmp_path / "out")]
    with pytest.raises(UserError, match="index must lie in 0 to 1"):
        run([*words, "--index", "2", "--of", "2"])
    with pytest.raises(UserError, match="jobs must be 1 or more"):
        run([*words, "--jobs", "0"])
    with pytest.raises(UserError, match="seeds not be empty"):
        run([*words, "--seeds", "[]"])
    with pytest.raises(UserError, match="no cow"):
        run([*words, "--only", "[cow]"])
    with pytest.raises(UserError, match=r"sources\.s describes no source of images: .*MVTek"):
        run([*words, "--sources", '{"s": {"class_path": "MVTek"}}'])


def test_every_fit_is_given_all_arguments(words: list[str], images: Path, tmp_path: Path) -> None:
    """Those for all methods, those of its own, and what follows `--`; a share without cells does none."""
    empty = ["--index", "1", "--of", "2", "--arguments", "[--model.lr=1]"]
    run([*words, "--output", str(tmp_path / "out"), "--budget.epochs", "3", *empty, "--", "--model.lr", "3"])
    (asked,) = (tmp_path / "out/m").rglob("asked.json")
    given = json.loads(asked.read_text())
    assert given["arguments"] == ["--model.lr=1", "--model.lr=2", "--model.lr", "3"]
    assert given["config"]["data"]["source"]["init_args"]["root"] == str(images)
    assert given["config"]["trainer"] == {"max_epochs": 3, "max_steps": -1, "enable_progress_bar": False}
    assert not list((tmp_path / "out").rglob("log.txt"))
