"""Griffe's extension for the documents' site (mkdocs.yml): an example in a docstring is shown as code."""

import re
from textwrap import indent
from typing import Any

import griffe

EXAMPLE = re.compile(r"(?<=^Example:\n)(?:[ ]{4}.*\n?|\n)+", re.MULTILINE)


class Examples(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Put a fence around the example of a docstring."""
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(fence, obj.docstring.value)


def fence(code: re.Match[str]) -> str:
    return indent("```python\n", " " * 4) + code[0].rstrip("\n") + "\n" + indent("```\n\n", " " * 4)
