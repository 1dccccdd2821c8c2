"""A name that only its own module uses begins with `_`, so that readers know that nothing else depends on it."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for path in (ROOT / "lit_ad").rglob("*.py") if path.name != "__init__.py")
USERS = ("lit_ad", "tests", "configs", "docs", "benchmarks", "examples", ".ci", "pyproject.toml", "README.md")
READ = (".py", ".yaml", ".md", ".toml", ".sh", ".cpp", "")


def words(text: str) -> set[str]:
    """Return the identifiers of a text."""
    return set(re.findall(r"\w+", text))


def list_files() -> Iterator[Path]:
    for user in USERS:
        path = ROOT / user
        yield from (file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


WORDS = {file: words(file.read_text(encoding="utf-8")) for file in list_files() if file.suffix in READ}
FILES_WITH = Counter(word for found in WORDS.values() for word in found)


def module_names(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a module's own statements define."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def types_of_signatures(tree: ast.Module) -> set[str]:
    """Return the types of arguments, results and fields, and the base classes: callers and subclasses meet them."""
    types: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            types |= words(ast.unparse(node.annotation))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is not None:
            types |= words(ast.unparse(node.returns))
        elif isinstance(node, ast.ClassDef):
            types |= {word for base in node.bases for word in words(ast.unparse(base))}
    return types


def lonely_names(tree: ast.Module, others: set[str]) -> list[str]:
    """Return the public names of a module that no other file and no signature mentions."""
    types = types_of_signatures(tree)
    names = [name for name in module_names(tree) if not name.startswith("_") and name not in others]
    return [name for name in names if not (name in types and not name.isupper())]


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_names_of_one_module_are_private(file: Path) -> None:
    others = {word for word in WORDS[file] if FILES_WITH[word] > 1}
    assert lonely_names(ast.parse(file.read_text(encoding="utf-8")), others) == []


def test_a_lonely_name_is_found() -> None:
    tree = ast.parse("LIMIT = 3\nclass Size: ...\ndef area(size: Size): ...\ndef used(): ...\ndef _own(): ...")
    assert lonely_names(tree, {"used"}) == ["LIMIT", "area"]
