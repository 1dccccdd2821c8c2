"""Write names of files in texts, and read them back.

A file name may be any bytes. Python represents bytes that are not UTF-8 by the characters U+DC80 to U+DCFF (PEP 383),
which a UTF-8 text must not contain. So tables (CSV) contain the bytes of the name, and JSON contains these characters
as escapes; both are read back as the same name. Pages, pictures, dashboards and the console show `printable` names.
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
    """Return a file name from a UTF-8 text as the system's functions need it, which differs in other locales."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        with suppress(UnicodeEncodeError):  # it cannot be a file name; opening it raises the error
            return os.fsdecode(text.encode("utf-8", "surrogateescape"))
    return text


def escape_bytes(text: str) -> str:
    """Return the text as valid Unicode, with `\\xNN` for each byte in it that is not UTF-8."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a file name of Windows may contain half of a surrogate pair
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


def printable(name: str) -> str:
    """Return a file's name as one line of valid Unicode, with control characters as escapes."""
    if name.isascii() and name.isprintable():
        return name
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), escape_bytes(name))


def map_texts(function: Callable[[str], str], values: Any) -> Any:
    """Return JSON-like values in which each text, keys included, is replaced by the function's result."""
    if isinstance(values, str):
        return function(values)
    if isinstance(values, dict):
        return {map_texts(function, key): map_texts(function, value) for key, value in values.items()}
    return [map_texts(function, value) for value in values] if isinstance(values, list | tuple) else values


@contextmanager
def utf8_path(file: Path) -> Iterator[Path]:
    """Yield a path in UTF-8 for libraries that need one: the file's own, or a link to it, which the block's end
    removes."""
    if escape_bytes(str(file)) == str(file):
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="lit_ad-") as folder:
        link = Path(folder, "link").with_suffix(file.suffix)
        link.symlink_to(file.absolute())
        yield link


def open_table(path: Path) -> TextIO:
    """Open a CSV file for writing, in which any file names can be written."""
    return path.open("w", newline="", encoding="utf-8", errors="surrogateescape")


def tell(text: str) -> None:
    """Print a text. Characters that the console's encoding does not have are printed as escapes, without an error."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(escape_bytes(text).encode(encoding, "backslashreplace").decode(encoding), flush=True)
