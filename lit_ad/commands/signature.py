"""Make the command line of a function: its signature gives the arguments, and its docstring gives the help."""

import textwrap
from collections.abc import Callable, Sequence
from inspect import Parameter, getdoc, signature
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from docstring_parser import parse
from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter, Namespace

from lit_ad.errors import UserError
from lit_ad.files import resolve_paths
from lit_ad.lightning_cli.jsonargparse_workarounds import allow_file_names


def call(function: Callable[..., None], prog: str, words: Sequence[str], config_file: bool = False) -> None:
    """Call a function with the arguments that the words of a command line give.

    Parameters before `/` are positional arguments: a list takes one or more words, and a parameter with a default may
    be left out. The others are options, `--name VALUE`; a bool that is False by default is a flag, `--name`.
    `*parameter` takes the words after `--`. Paths are made absolute.

    Args:
        function: The command's function. Each of its parameters has a type, and a line below "Args:".
        prog: Name of the command, such as "lit-ad report".
        words: The words after that name.
        config_file: Whether `--config FILE` may give the arguments as YAML.

    Raises:
        UserError: The words do not fit the signature, or the command fails with one.
    """
    parameters = signature(function).parameters.values()
    words, passed = list(words), list[str]()
    if any(parameter.kind is Parameter.VAR_POSITIONAL for parameter in parameters) and "--" in words:
        end = words.index("--")
        words, passed = words[:end], words[end + 1 :]
    allow_file_names()
    parser = make_parser(function, prog, config_file)
    values = vars(parser.instantiate(resolve_paths(parser.parse_args(words))))
    positional = [values[parameter.name] for parameter in parameters if parameter.kind is Parameter.POSITIONAL_ONLY]
    options = [parameter.name for parameter in parameters if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD]
    options += [parameter.name for parameter in parameters if parameter.kind is Parameter.KEYWORD_ONLY]
    function(*positional, *passed, **{name: values[name] for name in options})


def make_parser(function: Callable[..., None], prog: str, config_file: bool = False) -> ArgumentParser:
    """Return the parser of a function's arguments, as `call` describes them."""
    text = getdoc(function) or ""
    types = get_type_hints(function)
    about = {parameter.arg_name: parameter.description for parameter in parse(text).params}
    description = text.partition("\nArgs:")[0]
    parser = Parser(prog=prog, description=description, formatter_class=_Help, allow_abbrev=False)
    if config_file:
        parser.add_argument("--config", action=ActionConfigFile, help="A YAML file of these arguments.")
    added: set[str | int] = set()
    for name, parameter in signature(function).parameters.items():
        if parameter.kind is Parameter.POSITIONAL_ONLY:
            several, needed = get_origin(types[name]) is list, parameter.default is Parameter.empty
            options: dict[str, Any] = {"type": get_args(types[name])[0] if several else types[name]}
            options |= {"nargs": "+"} if several else {} if needed else {"nargs": "?", "default": parameter.default}
            parser.add_argument(name, help=about[name], **options)
            added.add(name)
        elif types[name] is bool and parameter.default is False:
            parser.add_argument(f"--{name.replace('_', '-')}", action="store_true", help=about[name])
            added.add(name)
    parser.add_function_arguments(function, as_group=False, skip=added)
    return parser


class Parser(ArgumentParser):
    """A parser whose errors are UserErrors of one line."""

    def parse_args(self, args: Sequence[str], *more: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]
        try:
            return super().parse_args(args, *more, **kwargs)
        except UnicodeDecodeError:
            from lit_ad.lightning_cli.messages import explain_binary_file

            self.error(explain_binary_file(args))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        from lit_ad.lightning_cli.messages import explain_error  # it imports torch, which takes two seconds

        raise UserError(f"{explain_error(message, list(self.get_defaults().keys()))} ({self.prog} --help)")


class _Help(DefaultHelpFormatter):
    """Wraps each paragraph of a description, and keeps the lines of tables (paragraphs with two spaces in a row)."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip().split("\n\n")
        return "\n\n".join(part if "  " in part else textwrap.fill(part, width) for part in paragraphs)
