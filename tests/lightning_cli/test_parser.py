"""The parser: every error is one line that names the key or the file."""

import sys
from pathlib import Path

import pytest

from lit_ad.errors import UserError
from lit_ad.lightning_cli.parser import Parser, check_augment, check_config_files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1\n", r"bad.yaml is not valid YAML: while parsing .* line 1"),
        ("", r"bad.yaml is empty or has no keys"),
        ("- 1\n", r"bad.yaml is empty or has no keys"),
        (None, r"cannot read the config file .*bad.yaml"),
    ],
)
def test_a_config_file_that_cannot_be_read_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "bad.yaml"
    if content is not None:
        file.write_text(content)
    for arguments in (["fit", "--config", str(file)], ["fit", f"--config={file}"]):
        with pytest.raises(UserError, match=message):
            check_config_files(arguments)


def test_every_config_file_of_a_line_is_checked(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("seed_everything: 1\n", encoding="utf-8")
    good = str(tmp_path / "good.yaml")
    check_config_files(["fit", "-c", good, f"--config={good}", "--data.source", "none.yaml"])
    with pytest.raises(UserError, match=r"cannot read the config file .*none.yaml"):
        check_config_files(["fit", "-c", good, "-c", str(tmp_path / "none.yaml")])
    with pytest.raises(UserError, match="--config needs a file"):
        check_config_files(["fit", "--config"])  # the file was forgotten


@pytest.fixture
def parser() -> Parser:
    parser = Parser(exit_on_error=False)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--name", type=str | None, default="a")
    return parser


def test_a_wrong_value_and_a_wrong_key_are_one_line_each(parser: Parser) -> None:
    with pytest.raises(UserError, match="epochs") as error:
        parser.parse_args(["--epochs", "many"])
    assert len(str(error.value).splitlines()) == 1
    with pytest.raises(UserError, match=r"epoch_s.* Did you mean epochs"):
        parser.parse_args(["--epoch_s", "2"])


def test_without_arguments_the_typed_words_are_parsed(parser: Parser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lit-ad", "--epochs", "7"])
    assert parser.parse_args().epochs == 7


def test_an_error_in_a_list_of_transforms_is_explained() -> None:
    check_augment(None)
    check_augment(Path("saved.json"))
    with pytest.raises(UserError, match="no attribute 'RandomCropp'"):
        check_augment(Path("[{class_path: albumentations.RandomCropp}]"))
