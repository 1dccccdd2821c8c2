"""Imports point one way: each part may import only what stands beside it here."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lit_ad"
BASE = {"batch", "maps", "tiling"}
ALLOWED = {  # longest prefix wins
    "__init__": set(),
    "batch": set(),
    "batchnorm": set(),
    "maps": set(),
    "tiling": set(),
    "metrics": {"metrics"},
    "teachers": {"teachers"},
    "data.sample": set(),
    "data": {"data.sample"},  # a source
    "data.demo": {"data.sample", "data.mvtec"},
    "data.transforms": {"data.sample"},
    "data.dataset": {"data.sample", "data.transforms", "tiling", "batch"},
    "data.datamodule": {"data.sample", "data.images", "data.dataset", "data.transforms", "tiling", "batch"},
    "data.__init__": {"data"},
    "module": {"batch", "batchnorm", "tiling", "teachers", "maps"},
    "gaussian": set(),
    "methods": {"module", "teachers", "maps", "batch", "gaussian"},
    "methods.__init__": {"methods"},
    "callbacks": {"batch", "metrics", "maps", "callbacks"},
    "checkpoint": {"callbacks.output"},
    "loggers": {"callbacks.output"},
    "help": {"methods"},
    "cli": {"callbacks", "checkpoint", "loggers"},
    "protocol": {"callbacks.output", "data.one_class"},
    "__main__": {"cli", "help", "data", "module", "protocol"},
}


def name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def covers(prefix: str, module: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "lit_ad":
            whole = node.module.removeprefix("lit_ad").removeprefix(".")
            found |= {whole} if whole else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("lit_ad.") for a in node.names if a.name.startswith("lit_ad.")}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=name)
def test_imports_point_one_way(path: Path) -> None:
    mine = name(path)
    rule = max((prefix for prefix in ALLOWED if covers(prefix, mine)), key=len, default=None)
    assert rule is not None, f"{mine} has no place in the house: say in ALLOWED what it may import"
    wrong = {module for module in imports(path) if not any(covers(prefix, module) for prefix in ALLOWED[rule])}
    assert not wrong, f"{mine} imports {wrong}, but may import only {ALLOWED[rule]}"


@pytest.mark.parametrize("module", ["utils", "helpers", "common", "misc"])
def test_no_drawer_for_everything(module: str) -> None:
    assert not list(PACKAGE.rglob(f"{module}*"))
