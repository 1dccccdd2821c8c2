"""Set up a benchmark without a config file: methods by name on a user's folder. Write the config that does the same."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from lit_ad import __all__ as PUBLIC
from lit_ad.benchmark.plan import Budget, MethodSpec
from lit_ad.errors import UserError
from lit_ad.files import atomic_write, resolve_path
from lit_ad.shipped_configs import CONFIGS, find_config

NAMES = ("{}", "multiclass{}", "{}s")  # names, without _, of config files with a method's setting in its paper


def make_method_specs(methods: Mapping[str, MethodSpec] | Sequence[str]) -> dict[str, MethodSpec]:
    """Return the methods of a benchmark by name.

    Args:
        methods: Specs by name; or a list, each item the name of a method of lit_ad or a config file.

    Raises:
        UserError: No method is given, one is given twice, or there is no such method or file.
    """
    if isinstance(methods, Mapping):
        specs = {name: replace(spec, config=str(find_config(spec.config))) for name, spec in methods.items()}
    else:
        files = [resolve_path(each) if each.endswith((".yaml", ".yml")) else find_config_of(each) for each in methods]
        named = [file.stem if file.parent != CONFIGS else each for each, file in zip(methods, files, strict=True)]
        specs = {name: MethodSpec(str(file)) for name, file in zip(named, files, strict=True)}
        if len(specs) < len(methods):
            raise UserError(f"methods has a name twice: {', '.join(named)}")
    if not specs:
        raise UserError("methods is empty: give --methods '[STFPM, ReverseDistillation]'")
    return specs


def find_config_of(method: str) -> Path:
    """Return the config file with a method's setting in its paper. Raises UserError if there is none."""
    files = {file.stem.replace("_", ""): file for file in CONFIGS.glob("*.yaml")}
    matching = [files[name] for pattern in NAMES if (name := pattern.format(method.lower())) in files]
    if not matching:
        with_file = [name for name in PUBLIC if any(pattern.format(name.lower()) in files for pattern in NAMES)]
        near = get_close_matches(method, with_file, n=1)
        hint = f"did you mean {near[0]}?" if near else "give its config file, FILE.yaml"
        raise UserError(f"there is no method {method} with a config file in {CONFIGS}: {hint}")
    return matching[0]


def list_sources(root: Path | None, sources: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the sources of a benchmark by name.

    Args:
        root: A folder in the layout of MVTec AD, or None.
        sources: Sources by name, or an empty mapping.

    Raises:
        UserError: Neither or both are given, or the folder has another layout.
    """
    if root is None:
        if not sources:
            raise UserError("sources is empty: give --root FOLDER, or a config file with sources, --config FILE")
        return dict(sources)
    if sources:
        raise UserError("give --root FOLDER or sources, not both")
    if not list(root.glob("train/good")) + list(root.glob("*/train/good")):
        raise UserError(
            f"{root} has no folder train/good or CATEGORY/train/good: for another layout give --sources, such as "
            f"'{{{root.name}: {{class_path: Folder, init_args: {{root: {root}, nominal: [good], anomalous: [bad]}}}}}}'"
        )
    return {root.name: {"class_path": "lit_ad.data.MVTec", "init_args": {"root": str(root)}}}


def save_config(output: Path, arguments: Mapping[str, Any]) -> Path:
    """Write OUTPUT/benchmark.yaml, with which the command runs the same benchmark, and return its path.

    Args:
        output: The benchmark's output folder.
        arguments: The command's arguments. Those that are empty or None are left out.
    """
    file = output / "benchmark.yaml"
    with atomic_write(file) as temporary:
        kept = {name: _to_plain(value) for name, value in arguments.items() if value not in (None, (), [], {})}
        temporary.write_text(yaml.safe_dump(kept, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return file


def _to_plain(value: Any) -> Any:
    """Convert a value of the arguments to plain values for YAML."""
    if isinstance(value, MethodSpec | Budget):
        return {name: _to_plain(inner) for name, inner in asdict(value).items() if inner not in (None, [], {})}
    if isinstance(value, Mapping):
        return {name: _to_plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value
