"""Names of variables and arguments say what they hold."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "lit_ad").rglob("*.py"))
SAY_NOTHING = {"found", "said", "of", "one", "mine", "whole"}
FLAGS = {("benchmark.py", "of")}  # --index 0 --of 4, as people type it


def assigned_names(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of each variable and argument."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        if isinstance(node, ast.arg):
            yield node.lineno, node.arg


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_variable_has_an_empty_name(file: Path) -> None:
    names = assigned_names(file.read_text(encoding="utf-8"))
    assert not [f"{line}: {name}" for line, name in names if name in SAY_NOTHING and (file.name, name) not in FLAGS]


def test_assigned_names_are_found_everywhere() -> None:
    source = """
def f(of):
    for one in of:
        said = one
    return [mine for mine in of], lambda whole: whole
found: int = 3
"""
    assert {name for _, name in assigned_names(source)} == SAY_NOTHING
