"""Imports point one way: each part may import only the parts that this file lists for it."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lit_ad"
LIGHT = {"counts", "errors", "files", "integrity", "machine", "names", "threads"}  # without torch
SYSTEM = {*LIGHT, "distributed"}
SOURCE = {
    "counts",
    "errors",
    "files",
    "names",
    "threads",
    "batch",
    "image",
    "data.masks",
    "data.sources",
    "evaluation.protocols",
}
# Each part of the house may import itself, its own room, and what stands beside it. The longest name that fits counts.
ALLOWED = {
    "version": set(),
    "counts": set(),
    "errors": set(),
    "machine": {"errors"},
    "threads": {"errors"},
    "distributed": set(),
    "shared_mean": set(),
    "names": set(),
    "files": {"errors", "names", "threads"},
    "integrity": {"errors"},
    "image": {"errors", "files"},
    "batch": {"errors", "image"},
    "checkpoint": {"errors", "files", "integrity"},
    "detector": {*LIGHT, "image"},  # neither torch nor anything of training
    "detector.card": {*LIGHT, "image", "version"},  # the version, for messages
    "detector.nominal_pixels": {"metrics.histogram", "metrics.keys"},  # NumPy alone
    "detector.detector": {*LIGHT, "image", "methods.torch_runtime"},  # for checkpoints
    "teachers": SYSTEM,
    "features": {*SYSTEM, "image"},
    "features.dataset": {"batch"},
    "methods": {"errors", "batch", "image", "teachers"},  # a method: one paper, one file
    "methods.base": {
        "errors",
        "files",
        "distributed",
        "shared_mean",
        "version",
        "batch",
        "detector",
        "image",
        "teachers",
    },
    "methods.detector_file": {"errors", "files", "machine", "checkpoint", "detector", "image", "teachers"},
    "methods.network": {"batch", "detector", "image"},
    "methods.torch_runtime": {"detector"},
    "metrics": {"distributed"},  # where tensors must lie for processes to exchange them
    "data.sources": SOURCE,
    "data.audit": {*LIGHT, "batch", "image", "data.masks", "data.sources", "data.splits"},
    "data.audit.outliers": {"errors", "counts", "batch", "image", "data.sources", "teachers.backbone"},
    "data": {*SYSTEM, "batch", "image", "features.dataset", "data.sources", "data.audit"},
    "annotations": {"detector.regions"},
    "evaluation.protocols": {"batch"},
    "evaluation": {*SYSTEM, "annotations", "batch", "image", "detector", "metrics", "evaluation"},
    "evaluation.callback": {*SYSTEM, "metrics", "batch", "image", "detector", "evaluation", "teachers.weights"},
    "training": {*SYSTEM, "shared_mean", "batch", "checkpoint", "image", "detector", "teachers", "features", "methods"},
    "training.cache_parts": {"batch", "data.dataset", "image", "methods"},
    "deploy": {"__init__", *SYSTEM, "annotations", "batch", "image", "detector", "methods"},
    "line": {"__init__", *LIGHT, "image", "detector", "deploy", "line"},
    "line.growth": {*LIGHT, "batch", "data.sources", "data.splits", "image"},
    "line.comparison": {*LIGHT, "batch", "detector", "line.growth"},
    "benchmark": {""},  # starts `lit-ad fit`
    "lightning_cli": {""},  # may see all
    "commands": {""},
    "__main__": {"commands.main"},
    "shipped_configs": {"errors", "files"},
    "run": {""},  # trains as the command does
    "__init__": {""},  # each when its name is asked for
}
# Of methods/: no paper's.
SHARED = {"base", "batchnorm", "detector_file", "distances", "initialisation", "maps", "network", "restoration"}
SHARED |= {"statistics", "torch_runtime"}
LENDERS = {"reverse_distillation"}  # papers that another one builds on


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
    module = name(path)
    rule = max((prefix for prefix in ALLOWED if covers(prefix, module)), key=len, default=None)
    assert rule is not None, f"{module} has no place in the house: say in ALLOWED what it may import"
    room = name(path.parent) if path.parent != PACKAGE else module
    wrong = {other for other in imports(path) if not any(covers(prefix, other) for prefix in ALLOWED[rule] | {room})}
    assert not wrong, f"{module} imports {wrong}, but may import only {ALLOWED[rule]}"


def test_no_module_imports_itself_through_others() -> None:
    """This includes imports for types and inside functions: such modules could only be read together. An `__init__`,
    which only offers names, does not count."""
    modules = {name(path): imports(path) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
    list(TopologicalSorter(modules).static_order())  # raises CycleError, which names them


@pytest.mark.parametrize("path", sorted((PACKAGE / "methods").glob("*.py")), ids=name)
def test_no_paper_imports_another_one(path: Path) -> None:
    others = {module.removeprefix("methods.") for module in imports(path) if module.startswith("methods.")}
    assert path.stem == "__init__" or others <= SHARED | LENDERS


@pytest.mark.parametrize("room", ["methods", "data"])
def test_methods_and_data_do_not_look_at_each_other_through_the_trainer(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.Attribute) and node.attr in ("datamodule", "lightning_module")), path


@pytest.mark.parametrize("module", ["utils", "helpers", "common", "misc"])
def test_no_module_has_a_name_that_fits_everything(module: str) -> None:
    assert not list(PACKAGE.rglob(f"{module}*"))
