"""Workarounds for what users of jsonargparse would not expect. Remove each when a release no longer needs it.

All were last needed with jsonargparse 4.53.0.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

from lit_ad.errors import UserError
from lit_ad.files import resolve_path
from lit_ad.names import map_texts

_VIEW_KEY = re.compile(r"(--model(?:\.init_args)?\.view)\.(\w+)(=null)?")
PRIVATE = 0x100000  # first character of Unicode's last plane, which is for private use
_SURROGATE = re.compile(r"[\udc80-\udcff]")
_ESCAPED = re.compile(r"(?<!\\)((?:\\\\)*)\\u(dc[89a-f][0-9a-f])", re.IGNORECASE)  # in double quotes: "\\uDCFC"
_SHIFTED = re.compile(f"[{chr(PRIVATE + 0xDC80)}-{chr(PRIVATE + 0xDCFF)}]")
_CLASS_KEYS = ("data.source", "model")


def allow_file_names() -> None:
    """Let jsonargparse read texts with file names that are not UTF-8.

    Python represents the bytes of such a name as surrogates, which libyaml refuses, as characters and as escapes. While
    libyaml reads, each surrogate is replaced by a character for private use.
    """
    load = get_loader("yaml")

    def load_with_file_names(text: str) -> Any:
        try:
            return load(text)
        except (yaml.YAMLError, UnicodeEncodeError):
            shifted = _SURROGATE.sub(lambda match: chr(ord(match[0]) + PRIVATE), text)
            shifted = _ESCAPED.sub(r"\1\\U0010\2", shifted)
            if shifted == text:
                raise
        return map_texts(lambda value: _SHIFTED.sub(lambda match: chr(ord(match[0]) - PRIVATE), value), load(shifted))

    if load.__name__ != load_with_file_names.__name__:
        set_loader("yaml", load_with_file_names, (yaml.YAMLError,))


def rewrite_nulls(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with each `--model.view.KEY null` rewritten as `--model.view '{KEY: null}'`.

    jsonargparse reads the null and passes it to the parser of the model's arguments as the word None, which is not a
    number. It passes on a mapping as text. The mapping means the same, and leaves the view's other keys alone.
    """
    rewritten: list[str] = []
    for argument in arguments:
        key = _VIEW_KEY.fullmatch(rewritten[-1]) if argument == "null" and rewritten else None
        if key and not key[3]:
            rewritten.pop()
        else:
            key = _VIEW_KEY.fullmatch(argument)
        rewritten += [key[1], f"{{{key[2]}: null}}"] if key and (key[3] or argument == "null") else [argument]
    return rewritten


def refuse_inherited(arguments: Sequence[str], config: Any) -> None:
    """Refuse a typed class that replaces the class of a config file and would silently inherit its arguments.

    jsonargparse keeps each argument of the file's class for which the typed class has one of the same name
    (https://github.com/omni-us/jsonargparse/issues/460 is the same for defaults). `--data.source Folder` over a file
    with MVTec would look for its folders in MVTec's root.

    Args:
        arguments: The words that were typed.
        config: The configuration that the parser made of them.

    Raises:
        UserError: The typed class would inherit an argument that was not typed.
    """
    files = [resolve_path(str(path)) for path in config.get("config") or []]
    for key in _CLASS_KEYS:
        typed, names = find_typed_class(arguments, key)
        file, earlier = find_class_in_files(files, key)
        if typed is None or file is None or _take_class_name(typed) == _take_class_name(earlier["class_path"]):
            continue
        final = config[key]
        values = {name: value for name, value in (earlier.get("init_args") or {}).items() if value is not None}
        kept = [name for name in values if name in final.get("init_args", {}) and name not in names]
        if _take_class_name(final.class_path) == _take_class_name(typed) and kept:
            listed = ", ".join(f"{name} {values[name]}" for name in kept)
            raise UserError(
                f"--{key} {_take_class_name(typed)} replaces {_take_class_name(earlier['class_path'])} of {file}, but "
                f"would keep its {listed}: give " + ", ".join(f"--{key}.{name}" for name in kept)
            )


def find_typed_class(arguments: Sequence[str], key: str) -> tuple[str | None, set[str]]:
    """Return the class that was typed for a key, or None, and the names of the arguments that were typed for it."""
    typed, names = None, set()
    for i, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        value = value if equals else next(iter(arguments[i + 1 : i + 2]), "")
        if option in (f"--{key}", f"--{key}.class_path"):
            spec = yaml.safe_load(value) if value.startswith("{") else {"class_path": value}
            typed = spec.get("class_path", typed)
            names |= set(spec.get("init_args") or {})
        elif option.startswith(f"--{key}."):
            names.add(option.removeprefix(f"--{key}.").removeprefix("init_args.").split(".")[0].rstrip("+"))
    return typed, names


def find_class_in_files(files: Sequence[Path], key: str) -> tuple[Path | None, dict[str, Any]]:
    """Return the last file that names a class for a key, or None, and its class_path and init_args."""
    for file in reversed(files):
        value: Any = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, dict) and value.get("class_path"):
            return file, value
    return None, {}


def _take_class_name(path: str) -> str:
    """Return the name of a class without its module."""
    return path.rsplit(".", 1)[-1]
