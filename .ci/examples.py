"""An extension of Griffe for the documentation site (mkdocs.yml): show the example of a docstring as code."""

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
    """Return the matched code between the fences of a Markdown code block, all indented by 4 spaces."""
    return indent("```python\n", " " * 4) + code[0].rstrip("\n") + "\n" + indent("```\n\n", " " * 4)
