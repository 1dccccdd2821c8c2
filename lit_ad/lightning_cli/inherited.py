"""No class starts from what a configuration file says of another one.

The parser keeps the arguments of the class in a file for a class that is typed instead of it, where it takes arguments
of these names: `--data.source Folder` over a file with MVTec would silently look for its folders in MVTec's root.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lit_ad.errors import UserError

KEYS = ("data.source", "model")


def refuse_inherited(arguments: Sequence[str], config: Any) -> None:
    """Raises UserError where a class was typed over another one of a file, and would keep some of its arguments.

    Args:
        arguments: What was typed.
        config: What the parser made of it.
    """
    for key in KEYS:
        typed, given = typed_class(arguments, key)
        file, said = in_files([Path(str(path)) for path in config.get("config") or []], key)
        if typed is None or file is None or short(typed) == short(said["class_path"]):
            continue
        final = config[key]
        values = {name: value for name, value in (said.get("init_args") or {}).items() if value is not None}
        kept = [name for name in values if name in final.get("init_args", {}) and name not in given]
        if short(final.class_path) == short(typed) and kept:
            what = ", ".join(f"{name} {values[name]}" for name in kept)
            raise UserError(
                f"--{key} {short(typed)} replaces {short(said['class_path'])} of {file}, but would keep its {what}: "
                "give " + ", ".join(f"--{key}.{name}" for name in kept)
            )


def typed_class(arguments: Sequence[str], key: str) -> tuple[str | None, set[str]]:
    """The class typed for a key, if one was, and the names of its arguments that were typed."""
    typed, given = None, set()
    for i, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        value = value if equals else next(iter(arguments[i + 1 : i + 2]), "")
        if option in (f"--{key}", f"--{key}.class_path"):
            whole = yaml.safe_load(value) if value.startswith("{") else {"class_path": value}
            typed = whole.get("class_path", typed)
            given |= set(whole.get("init_args") or {})
        elif option.startswith(f"--{key}."):
            given.add(option.removeprefix(f"--{key}.").removeprefix("init_args.").split(".")[0].rstrip("+"))
    return typed, given


def in_files(files: Sequence[Path], key: str) -> tuple[Path | None, dict[str, Any]]:
    """The last file that names a class for a key, and what it says of it."""
    for file in reversed(files):
        said: Any = yaml.safe_load(file.read_text()) if file.is_file() else None
        for part in key.split("."):
            said = said.get(part) if isinstance(said, dict) else None
        if isinstance(said, dict) and said.get("class_path"):
            return file, said
    return None, {}


def short(name: str) -> str:
    """The class without its module."""
    return name.rsplit(".", 1)[-1]
