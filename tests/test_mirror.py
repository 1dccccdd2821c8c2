"""Tests mirror the package path by path: lit_ad/ROOM/NAME.py has tests/ROOM/test_NAME.py, and the other way round.

The names of an `__init__.py` are tested with the modules that define them. Behaviour of several modules together is
tested in tests/ itself, and only there. Files stay short enough to read.
"""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "lit_ad"
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"]
FILES = [path for path in sorted(TESTS.rglob("test_*.py")) if path.parent != TESTS]


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_has_its_tests(module: Path) -> None:
    mirrored = TESTS / module.relative_to(PACKAGE).with_name(f"test_{module.name}")
    assert mirrored.is_file()


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_every_file_of_tests_has_its_module(file: Path) -> None:
    mirrored = PACKAGE / file.relative_to(TESTS).with_name(file.name.removeprefix("test_"))
    assert mirrored.is_file()


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_is_longer_than_300_lines(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 300
