"""Text files are UTF-8 on any system: every call names the encoding, because Python's default is the locale's.

Ruff's rule PLW1514 finds calls on objects that it knows to be paths. This test finds the others.
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lit_ad"
BINARY = {"Image", "tarfile", "zipfile", "os"}  # modules whose `open` is of another kind


def lacks_encoding(call: ast.Call) -> bool:
    """Return whether a call reads or writes text in the locale's encoding."""
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in given:
        return False
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("read_text", "write_text"):
        return True
    if name in ("run", "Popen", "check_output"):
        return any(isinstance(given.get(key), ast.Constant) for key in ("text", "universal_newlines"))
    if name not in ("open", "fdopen", "NamedTemporaryFile"):
        return False
    if isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") in BINARY:
        return name == "fdopen"
    nodes = [node for value in (*call.args, *given.values()) for node in ast.walk(value)]
    return not any(isinstance(node, ast.Constant) and "b" in str(node.value) for node in nodes)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_call_that_reads_or_writes_text_has_an_encoding(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    lines = [call.lineno for call in calls if lacks_encoding(call)]
    assert not lines, f"{path}, lines {lines}: give encoding"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *(("a.read_text()", True), ("(a / b).write_text(c)", True), ("a.read_text(encoding='utf-8')", False)),
        *(
            ("a.open()", True),
            ("a.open('w', newline='')", True),
            ("a.open('rb')", False),
            ("a.open('ab' if b else 'wb')", False),
            ("open(a, mode='wb')", False),
        ),
        *(("Image.open(a)", False), ("run(a, text=True)", True), ("run(a, capture_output=True)", False)),
    ],
)
def test_calls_without_an_encoding_are_found(code: str, expected: bool) -> None:
    assert lacks_encoding(ast.parse(code).body[0].value) is expected  # type: ignore[attr-defined]
