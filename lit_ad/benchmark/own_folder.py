"""A benchmark without a file: methods by name, on a folder of one's own, and the YAML that it stands for."""

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

NAMES = ("{}", "multiclass{}", "{}s")  # the file of a method's own setting by its paper, without _


def method_specs(methods: Mapping[str, MethodSpec] | Sequence[str]) -> dict[str, MethodSpec]:
    """The methods of a benchmark by name. In a list, each is a method of lit_ad, or a file with its configuration.

    Raises:
        UserError: There is no such method or file, none is given, or one is given twice.
    """
    if isinstance(methods, Mapping):
        specs = {name: replace(spec, config=str(find_config(spec.config))) for name, spec in methods.items()}
    else:
        files = [resolve_path(each) if each.endswith((".yaml", ".yml")) else config_of(each) for each in methods]
        named = [file.stem if file.parent != CONFIGS else each for each, file in zip(methods, files, strict=True)]
        specs = {name: MethodSpec(str(file)) for name, file in zip(named, files, strict=True)}
        if len(specs) < len(methods):
            raise UserError(f"methods has a name twice: {', '.join(named)}")
    if not specs:
        raise UserError("methods is empty: give --methods '[STFPM, ReverseDistillation]'")
    return specs


def config_of(method: str) -> Path:
    """The paper's setting of a method. Raises UserError if there is none."""
    files = {file.stem.replace("_", ""): file for file in CONFIGS.glob("*.yaml")}
    matching = [files[name] for pattern in NAMES if (name := pattern.format(method.lower())) in files]
    if not matching:
        with_file = [name for name in PUBLIC if any(pattern.format(name.lower()) in files for pattern in NAMES)]
        near = get_close_matches(method, with_file, n=1)
        hint = f"did you mean {near[0]}?" if near else "give its configuration, FILE.yaml"
        raise UserError(f"there is no method {method} with a file in {CONFIGS}: {hint}")
    return matching[0]


def sources_of(root: Path | None, sources: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The sources of a benchmark by name. `root`: a folder in the layout of MVTec AD.

    Raises:
        UserError: Neither or both are given, or the folder has another layout.
    """
    if root is None:
        if not sources:
            raise UserError("sources is empty: give --root FOLDER, or sources in a file, --config FILE")
        return dict(sources)
    if sources:
        raise UserError("give --root FOLDER or sources, not both")
    if not list(root.glob("train/good")) + list(root.glob("*/train/good")):
        raise UserError(
            f"{root} has no train/good, nor a category with it: for another layout give the source, such as --sources "
            f"'{{{root.name}: {{class_path: Folder, init_args: {{root: {root}, nominal: [good], anomalous: [bad]}}}}}}'"
        )
    return {root.name: {"class_path": "lit_ad.data.MVTec", "init_args": {"root": str(root)}}}


def save_config(output: Path, arguments: Mapping[str, Any]) -> Path:
    """Write OUTPUT/benchmark.yaml, which does the same benchmark again, and return it.

    Args:
        output: Of the benchmark.
        arguments: Of the command, as Python has them; those that are empty or None are left out.
    """
    file = output / "benchmark.yaml"
    with atomic_write(file) as temporary:
        kept = {name: plain(value) for name, value in arguments.items() if value not in (None, (), [], {})}
        temporary.write_text(yaml.safe_dump(kept, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return file


def plain(value: Any) -> Any:
    """As YAML has it."""
    if isinstance(value, MethodSpec | Budget):
        return {name: plain(inner) for name, inner in asdict(value).items() if inner not in (None, [], {})}
    if isinstance(value, Mapping):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value
