"""Names of files in texts.

A file name is any bytes. Python has those that are not UTF-8 as the characters U+DC80 to U+DCFF (PEP 383), which no
UTF-8 text may hold. So tables (CSV) have the bytes of the name, JSON has these characters as escapes, and both are read
back as the same name. Pages, pictures, dashboards and the console have `printable` names, for people.
"""

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def file_name(text: str) -> str:
    """A file's name in a UTF-8 text, as the system's functions take it: another one where the locale is not UTF-8."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        with suppress(UnicodeEncodeError):  # no name of a file: who opens it says so
            return os.fsdecode(text.encode("utf-8", "surrogateescape"))
    return text


def escape_bytes(text: str) -> str:
    """The text as Unicode, with `\\xNN` for each byte in it that is not UTF-8."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # of a file name of Windows, which may have a half of a pair of surrogates
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def printable(name: str) -> str:
    """A file's name in one line of Unicode, without control characters."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), escape_bytes(name))


def map_texts(function: Callable[[str], str], values: Any) -> Any:
    """The values, as JSON has them, with the function's result for each text in them, keys included."""
    if isinstance(values, str):
        return function(values)
    if isinstance(values, dict):
        return {map_texts(function, key): map_texts(function, value) for key, value in values.items()}
    return [map_texts(function, value) for value in values] if isinstance(values, list | tuple) else values


@contextmanager
def utf8_path(file: Path) -> Iterator[Path]:
    """A path in UTF-8, for libraries that take no other: the file's own, or a link's, which is gone after the block."""
    if escape_bytes(str(file)) == str(file):
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="lit_ad-") as folder:
        link = Path(folder, "link").with_suffix(file.suffix)
        link.symlink_to(file.absolute())
        yield link


def open_table(path: Path) -> TextIO:
    """Open a CSV file to write to, with any names of files in it."""
    return path.open("w", newline="", encoding="utf-8", errors="surrogateescape")


def tell(text: str) -> None:
    """Print a text; what the console's encoding has not is there as escapes, and no error."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(escape_bytes(text).encode(encoding, "backslashreplace").decode(encoding), flush=True)
