"""A function's signature becomes a command line."""

from pathlib import Path
from typing import Literal

import pytest

from lit_ad.commands.signature import call, make_parser
from lit_ad.errors import UserError

Given = dict[str, object]
given: Given = {}


def command(
    files: list[Path],
    /,
    *passed: str,
    size: int,
    seeds: tuple[int, ...] = (0,),
    dry_run: bool = False,
) -> None:
    """Do it.

    A paragraph that is so long that it has to be filled into lines of the width of a terminal, which is eighty here.

    GET /a   one
    GET /b   two

    Args:
        files: Some files.
        passed: More.
        size: How large.
        seeds: Of chance.
        dry_run: Only say so.
    """
    given.update(files=files, passed=passed, size=size, seeds=seeds, dry_run=dry_run)


def test_words_become_arguments() -> None:
    call(command, "lit-ad x", ["a", "b", "--size", "3"])
    assert given == {
        **{"files": [Path.cwd() / "a", Path.cwd() / "b"], "passed": ()},
        **{"size": 3, "seeds": (0,), "dry_run": False},
    }
    call(command, "lit-ad x", ["a", "--size=4", "--dry-run", "--seeds", "[1, 2]", "--", "--size", "5"])
    assert given == {
        **{"files": [Path.cwd() / "a"], "passed": ("--size", "5")},
        **{"size": 4, "seeds": (1, 2), "dry_run": True},
    }


def test_names_of_files_that_are_not_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    call(command, "lit-ad x", ["r\udcfcn", "#1: {a}", "null", "--size=1", "--", "\udcfc"])
    assert given["files"] == [tmp_path / "r\udcfcn", tmp_path / "#1: {a}", tmp_path / "null"]
    assert given["passed"] == ("\udcfc",)


def test_paths_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    call(command, "lit-ad x", ["~/a", "b/../c", "--size=1"])
    assert given["files"] == [tmp_path / "home/a", tmp_path / "c"]


@pytest.mark.parametrize(("words", "expected"), [([], "list"), (["clear"], "clear")])
def test_a_positional_argument_with_a_default_may_be_left_out(words: list[str], expected: str) -> None:
    def cache(action: Literal["list", "clear"] = "list", /) -> None:
        """Do it.

        Args:
            action: What to do.
        """
        given["action"] = action

    call(cache, "lit-ad x", words)
    assert given["action"] == expected


def test_a_bool_that_is_true_takes_a_value() -> None:
    def paint(path: Path, /, colour: bool = True, *, frame: bool = False) -> None:
        """Do it.

        Args:
            path: What to paint.
            colour: Whether in colour.
            frame: Whether with a frame.
        """
        given.update(path=path, colour=colour, frame=frame)

    for words, expected in (([], (True, False)), (["--colour", "false", "--frame"], (False, True))):
        call(paint, "lit-ad x", ["a", *words])
        assert (given["path"], given["colour"], given["frame"]) == (Path.cwd() / "a", *expected)
    with pytest.raises(UserError, match="--b"):
        call(paint, "lit-ad x", ["a", "--", "--b"])  # it has no parameter for the words after --


def test_a_file_gives_arguments_too(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("size: 7\nseeds: [3]\n")
    words = ["a", "--config", str(tmp_path / "x.yaml"), "--seeds", "[4]"]
    call(command, "lit-ad x", words, config_file=True)
    assert (given["size"], given["seeds"]) == (7, (4,))
    with pytest.raises(UserError, match="there is no option --config"):  # of a command that takes no file
        call(command, "lit-ad x", [*words, "--size=7"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "missing: size"),
        (["--size", "3"], "missing: files"),
        (["a", "--size", "much"], "size is much, but it must be a whole number"),
        (["a", "--size", "3", "--colour", "red"], "there is no option --colour"),
        (["a", "--siz", "3"], "there is no option --siz. Did you mean size?"),
    ],
)
def test_wrong_words_end_in_one_line(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as raised:
        call(command, "lit-ad x", words)
    assert str(raised.value) == f"{message} (lit-ad x --help)"


def test_help_is_the_docstring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "82")
    text = make_parser(command, "lit-ad x").format_help()
    head, _, options = text.partition("positional arguments:\n")
    assert head.endswith(
        "Do it.\n\nA paragraph that is so long that it has to be filled into lines of the width of\n"
        "a terminal, which is eighty here.\n\nGET /a   one\nGET /b   two\n\n"
    )
    headings = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["positional arguments:", "options:"]
    for name, about in (("files", "Some files."), ("--dry-run", "Only say so."), ("--size SIZE", "How large.")):
        assert any(line.strip().startswith(name) and about in line for line in options.splitlines()), name
    assert "passed" not in text
