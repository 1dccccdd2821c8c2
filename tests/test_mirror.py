"""Tests mirror the package path by path: lit_ad/ROOM/NAME.py has tests/ROOM/test_NAME.py, and the other way round.

What concerns several modules is tested in tests/ itself.
"""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "lit_ad"
ROOMS = [
    "benchmark",
    "commands",
    "data",
    "detector",
    "features",
    "image",
    "lightning_cli",
    "methods",
    "metrics",
    "teachers",
]
MODULES = [path for room in ROOMS for path in sorted((PACKAGE / room).rglob("*.py")) if path.name != "__init__.py"]
FILES = [path for room in ROOMS for path in sorted((TESTS / room).rglob("test_*.py"))]


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_has_its_tests(module: Path) -> None:
    mirrored = TESTS / module.relative_to(PACKAGE).with_name(f"test_{module.name}")
    assert mirrored.is_file()


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_every_file_of_tests_has_its_module(file: Path) -> None:
    mirrored = PACKAGE / file.relative_to(TESTS).with_name(file.name.removeprefix("test_"))
    assert mirrored.is_file()
