"""Imports point one way: each part may import only what stands beside it here."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lit_ad"
# From the top of the house down: a room stands on those above it.
ALLOWED = {  # longest prefix wins
    "errors": set(),
    "machine": set(),
    "files": {"errors"},
    "pixels": {"errors"},
    "tiling": {"errors"},
    "roi": {"errors", "pixels"},
    "view": {"errors", "pixels", "tiling", "roi"},
    "decision": {"errors"},
    "checkpoint": {"errors", "files"},
    "batch": {"pixels", "roi", "view"},
    "rules": {"batch"},
    "maps": set(),
    "teachers": {"errors", "files", "machine", "teachers"},
    "methods": {
        "errors",
        "batch",
        "maps",
        "view",
        "teachers",
        "methods.base",
        "methods.distances",
        "methods.statistics",
    },
    "methods.base": {
        "__init__",
        "errors",
        "batch",
        "checkpoint",
        "decision",
        "maps",
        "pixels",
        "view",
        "teachers",
        "methods.batchnorm",
    },
    "methods.batchnorm": set(),
    "methods.dinomaly": {"errors", "batch", "maps", "view", "teachers", "methods.base", "methods.stable_adamw"},
    "methods.distances": set(),
    "methods.dskd": {
        *("errors", "batch", "maps", "view", "teachers", "methods.base"),
        *("methods.distances", "methods.reverse_distillation"),
    },
    "methods.stable_adamw": set(),
    "methods.statistics": {"errors"},
    "methods.__init__": {"methods"},
    "data.source": {"errors", "batch", "pixels", "rules"},
    "data.pages": {"errors", "batch", "pixels"},
    "data.images": {"errors", "batch", "pixels", "data.source", "data.pages"},
    "data": {"errors", "batch", "pixels", "rules", "data.source"},  # a source
    "data.demo": {"errors", "files", "batch", "data.source", "data.mvtec"},
    "data.mpdd": {"data.source", "data.mvtec"},
    "data.kolektor": {"errors", "batch", "data.source", "data.masks"},
    "data.shapes": set(),
    "data.table": {"errors", "files", "batch", "pixels", "data.source", "data.shapes"},
    "data.mvtec_ad2": {"errors", "batch", "rules", "data.source", "data.mvtec"},
    "data.mvtec_loco": {"errors", "batch", "pixels", "rules", "data.source", "data.masks", "data.mvtec"},
    "data.augment": {"errors", "pixels"},
    "data.dataset": {"errors", "batch", "pixels", "tiling", "view", "data.augment", "data.masks", "data.photographs"},
    "data.inspection": {"errors", "batch", "pixels", "roi", "view", "data.masks", "data.pages", "data.source"},
    "data.likeness": {"errors", "batch", "pixels"},
    "data.loading": {"errors", "machine", "batch", "pixels", "view", "data.dataset"},
    "data.datamodule": {"errors", "machine", "batch", "pixels", "tiling", "view", "data"},
    "data.__init__": {"batch", "data"},
    "metrics": {"metrics"},
    "results": {"errors", "files", "batch", "pixels"},
    "report": {"errors", "files", "machine", "pixels", "metrics", "results", "report"},
    "callbacks": {
        *("errors", "files", "machine", "pixels", "batch", "roi", "view", "decision", "rules"),
        *("metrics", "results", "report", "callbacks"),
    },
    "callbacks.calibration": {"errors", "batch", "roi", "decision", "methods.base", "results"},
    "callbacks.feature_cache": {
        *("errors", "files", "batch", "data.loading"),
        *("methods.base", "teachers.store", "callbacks.calibration"),
    },
    "callbacks.predictions": {"errors", "files", "batch", "roi", "decision", "results", "teachers.weights"},
    "deploy": {"__init__", "errors", "files", "machine", "pixels", "view", "decision", "batch", "methods", "deploy"},
    "deploy.card": {"view", "decision"},
    "deploy.example": {"roi", "deploy.card"},
    "deploy.checkpoint": {"__init__", "view", "methods.base", "deploy.card", "deploy.runtimes"},
    "deploy.runtimes": {"errors", "machine", "view", "deploy.card"},  # neither torch nor anything of training
    "deploy.detector": {
        *("errors", "files", "machine", "pixels", "roi", "view", "decision"),
        *("deploy.card", "deploy.checkpoint", "deploy.runtimes"),
    },
    "deploy.__init__": set(),
    "run": {""},  # may see all
    "__main__": {"run.main"},
    "__init__": {"deploy.detector"},
}


def name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def covers(prefix: str, module: str) -> bool:
    return prefix == "" or module == prefix or module.startswith(prefix + ".")


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "lit_ad":
            whole = node.module.removeprefix("lit_ad").removeprefix(".")
            found |= {whole or "__init__"}
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


@pytest.mark.parametrize("room", ["methods", "data"])
def test_methods_and_data_do_not_look_at_each_other_through_the_trainer(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.Attribute) and node.attr in ("datamodule", "lightning_module")), path


@pytest.mark.parametrize("module", ["utils", "helpers", "common", "misc"])
def test_no_drawer_for_everything(module: str) -> None:
    assert not list(PACKAGE.rglob(f"{module}*"))
